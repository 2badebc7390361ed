"""The shared object that holds llama.cpp: finding it, loading it, and refusing one of another
build.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from collections import deque
from pathlib import Path
from typing import Any, Final

import cffi

from sled_llamacpp.declarations import DECLARATIONS, FUNCTIONS
from sled_llamacpp.errors import LibraryMismatch, LibraryNotFound
from sled_llamacpp.layout import first_difference

LIBRARY_SETTING: Final = "SLED_LLAMACPP_LIBRARY"
"""Environment variable that names another shared object."""

_WHEEL: Final = "xllamacpp"
_LOG_LEVELS_OF_TROUBLE: Final = (3, 4)
_log = logging.getLogger("sled_llamacpp.native")


def find_library(path: str | os.PathLike[str] | None = None) -> Path:
    """Path of the shared object: the argument, else SLED_LLAMACPP_LIBRARY, else the one inside the
    installed wheel.

    The wheel's Python package is not imported: it would start threads and claim the log.

    Raises:
        LibraryNotFound: nothing there.
    """
    named = path or os.environ.get(LIBRARY_SETTING)
    if named:
        found = Path(named)
        if not found.is_file():
            raise LibraryNotFound(f"no llama.cpp library at {found}")
        return found
    spec = importlib.util.find_spec(_WHEEL)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    for folder in folders:
        for candidate in sorted(Path(folder).glob(f"{_WHEEL}*.so")):
            return candidate
    raise LibraryNotFound(
        f"no llama.cpp library: install the {_WHEEL} wheel or set {LIBRARY_SETTING}"
    )


def _let_waiting_threads_sleep() -> None:
    # OpenMP's compute threads spin while they wait for each other, by default for milliseconds. On a
    # machine that also runs something else (a verifier beside drafters, an application beside a
    # drafter) a spinning thread keeps the one it waits for off its core, and steps take many times
    # as long. This many turns (tens of microseconds) cost nothing on an idle machine, and then the
    # thread sleeps. Read once, when the library is loaded; an operator's own setting stands.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")


class Library:
    """llama.cpp loaded into this process. Use `Library.load`; one instance per file and process.

    `api` holds the C functions and `ffi` the memory helpers; only this package uses them. Calls
    release the interpreter lock. llama.cpp's own log goes to the logger `sled_llamacpp.native` at
    level debug.
    """

    _loaded: dict[Path, Library] = {}  # noqa: RUF012  (process-wide by design: dlopen is, too)
    _lock = threading.Lock()

    @classmethod
    def load(cls, path: str | os.PathLike[str] | None = None) -> Library:
        """Load the library (once per file) and check that it is the build that the declarations
        describe.

        Raises:
            LibraryNotFound: no such file, or it is no shared object.
            LibraryMismatch: it is of another build.
        """
        found = find_library(path).resolve()
        with cls._lock:
            if found not in cls._loaded:
                cls._loaded[found] = cls(found)
            return cls._loaded[found]

    def __init__(self, path: Path) -> None:
        self.path = path
        _let_waiting_threads_sleep()
        self.ffi: Any = cffi.FFI()
        self.ffi.cdef(DECLARATIONS)
        try:
            self.api: Any = self.ffi.dlopen(str(path))
        except OSError as error:
            raise LibraryNotFound(f"{path} cannot be loaded: {error}") from error
        self._check_layout()
        self._complaints: deque[str] = deque(maxlen=4)
        self._log_callback = self.ffi.callback("void(int, const char *, void *)", self._on_log)
        self.api.llama_log_set(self._log_callback, self.ffi.NULL)
        self.api.llama_backend_init()
        self.abort_callback = self._find_abort_callback()

    def last_complaint(self) -> str:
        """The library's last warnings and errors in one line, and forget them; empty when there
        were none.
        """
        text = "; ".join(self._complaints)
        self._complaints.clear()
        return text

    def _on_log(self, level: int, text: Any, _: Any) -> None:
        message = self.ffi.string(text).decode("utf-8", "replace").strip()
        if not message:
            return
        if level in _LOG_LEVELS_OF_TROUBLE:
            self._complaints.append(message[:500])
        _log.debug("%s", message)

    def _find_abort_callback(self) -> Any:
        # llama.cpp asks the callback before every operator, from a compute thread. A Python
        # function there would wait for the interpreter lock hundreds of times per pass. `strlen` of
        # a one-byte flag answers the same question: 0 (false) while the flag is empty, 1 (true)
        # once it holds a byte.
        libc_ffi = cffi.FFI()
        libc_ffi.cdef("size_t strlen(const char *);")
        address = int(libc_ffi.cast("uintptr_t", libc_ffi.dlopen(None).strlen))
        return self.ffi.cast("abort_callback", address)

    def _check_layout(self) -> None:
        for function in FUNCTIONS:
            if not hasattr(self.api, function):
                raise LibraryMismatch(
                    f"{self.path} is not the pinned llama.cpp build: it has no {function}"
                )
        for struct in ("llama_model_params", "llama_context_params"):
            defaults = getattr(self.api, struct.replace("_params", "_default_params"))()
            difference = first_difference(struct, self._fields(struct, defaults))
            if difference:
                raise LibraryMismatch(
                    f"{self.path} is not the pinned llama.cpp build: {difference}"
                )

    def _fields(self, struct: str, value: Any) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, field in self.ffi.typeof(f"struct {struct}").fields:
            item = getattr(value, name)
            if field.type.kind in ("pointer", "function"):
                found[name] = True if item else None
            else:
                found[name] = item
        return found
