"""Whole repositories as folders of links to the cache's verified files. Downloads nothing itself.

Layout: `folders/KEY/` appears whole or not at all; `folders/KEY.json` names the commit and the files.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from sled_cli.models.errors import DownloadFailed
from sled_cli.models.source import HubFolderSource, HubSource


def whole(folder: Path) -> bool:
    """Whether the folder is there and all its links lead to files."""
    return folder.is_dir() and all(each.is_file() for each in folder.iterdir())


def build(
    source: HubFolderSource,
    folder: Path,
    files: Sequence[HubSource],
    fetch: Callable[[HubSource], Path],
) -> Path:
    """Fetch every file and make the folder of links to them.

    Raises:
        DownloadFailed: there is nothing that an engine could load.
        ModelError: as `fetch` raises; files fetched so far are kept for the next try.
    """
    if not any(each.file == "config.json" for each in files):
        raise DownloadFailed(f"{source} holds no config.json, so no engine can load it")
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    for each in files:
        (fresh / each.file).symlink_to(os.path.relpath(fetch(each), folder))
    shutil.rmtree(folder, ignore_errors=True)
    record = {"source": str(source), "files": [str(each.file) for each in files]}
    record["commit"] = files[0].revision
    folder.with_name(f"{folder.name}.json").write_text(json.dumps(record, indent=1))
    fresh.rename(folder)
    return folder


def forget(folder: Path, source: HubFolderSource) -> list[HubSource]:
    """Remove the folder; the files that it was made of, to be removed too."""
    record = folder.with_name(f"{folder.name}.json")
    shutil.rmtree(folder, ignore_errors=True)
    if not record.is_file():
        return []
    known = json.loads(record.read_text())
    record.unlink()
    return [HubSource(source.repository, file, known["commit"]) for file in known["files"]]
