"""The container store that every node of an end-to-end test begins with: the images, unpacked once.

Why: unpacking the images on each of five nodes costs minutes of disk time. The layers of an image
are never written to, so a node's store holds links to those of one seed, and its own copy of the two
small databases. Must not be given to a containerd that runs elsewhere than under a test: it would
remove files that others share.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from sled_testkit.cluster_process import Child
from sled_testkit.cluster_tools import Progress, cache_folder
from sled_testkit.node_network import CommandFailed, run

_START_SECONDS = 60.0
_LOCK = ".in-use"


def store(archives: Sequence[Path], folder: Path, progress: Progress) -> Path:
    """The store with these docker archives; made when the cache holds another one.

    `folder` takes the log of the containerd that makes it.
    """
    names = "\n".join(f"{path.name} {path.stat().st_mtime_ns}" for path in archives)
    key = hashlib.sha256(names.encode()).hexdigest()[:16]
    target = cache_folder().parent / "images" / f"store-{key}"
    if not _hold(target):
        progress("unpacking the images, once for all nodes")
        _remove_unused(target.parent)
        partial = Path(tempfile.mkdtemp(prefix=".store-", dir=target.parent))
        try:
            with _containerd(partial, folder) as ctr:
                for archive in archives:
                    run([*ctr, "images", "import", str(archive)], timeout_seconds=300)
            (partial / _LOCK).touch()
            os.replace(partial, target)
            _hold(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def plant(seed: Path, target: Path) -> None:
    """Give a node its own store, whose unpacked layers are those of the seed."""
    target.mkdir(parents=True)
    linked = seed.name == "snapshots"
    for source in seed.iterdir():
        own = target / source.name
        if source.is_dir() and not linked:
            plant(source, own)
        elif source.suffix == ".db":
            shutil.copy2(source, own)
        else:
            own.symlink_to(source)


def _hold(store_folder: Path) -> bool:
    """Keep this store from being removed while this process runs; False when it is not there."""
    try:
        lock = os.open(store_folder / _LOCK, os.O_RDWR)
    except FileNotFoundError:
        return False
    fcntl.flock(lock, fcntl.LOCK_SH)
    return (store_folder / _LOCK).exists()


def _remove_unused(folder: Path) -> None:
    for old in folder.glob("store-*"):
        lock = os.open(old / _LOCK, os.O_RDWR | os.O_CREAT)
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(old, ignore_errors=True)
        os.close(lock)


@contextlib.contextmanager
def _containerd(root: Path, folder: Path) -> Iterator[list[str]]:
    """A containerd of its own; yields the command line of its client."""
    socket = folder / "seed.sock"
    configuration = folder / "seed.toml"
    configuration.write_text(
        f'version = 2\nroot = "{root}"\nstate = "{folder}/seed"\n[grpc]\n  address = "{socket}"\n'
        # without a pod network or a sandbox: nothing is run here
        '[plugins."io.containerd.grpc.v1.cri".cni]\n  conf_dir = "/nonexistent"\n'
    )
    unshare = ["/usr/bin/unshare", "--mount", "--net", "--pid", "--fork", "--kill-child"]
    child = Child("seed", [*unshare, "/usr/bin/containerd", "--config", str(configuration)], folder)
    child.start()
    client = ["ctr", "--address", str(socket), "--namespace", "k8s.io"]
    try:
        _wait([*client, "version"], child)
        yield client
    finally:
        child.kill()


def _wait(command: list[str], child: Child) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        child.check()
        try:
            run(command)
            return
        except CommandFailed:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
