"""Inside an image's build stage: install the wheel with one extra into a folder, without a network.

Run as `python3 install.py libraries TARGET ARCH`, then `python3 install.py own TARGET ARCH ROLE INTERPRETER`: two folders, so
that a change of this project's code leaves the large one alone. Everything comes from the wheels beside this file. Both are the
same on every build. Uses the standard library and the wheel of pip only, so that a base image needs Python and nothing else.
"""

import compileall
import json
import os
import py_compile
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).resolve().parent
SCRIPTS = {
    "operator": ("sled-operator",),
    "verifier": ("sled-verifier", "sled"),
    "edge": ("sled-edge", "sled"),
}
PLATFORMS = {"amd64": "x86_64", "arm64": "aarch64"}
GLIBC = range(34, 4, -1)
"""Minor versions of the C library that wheels may name; the newest is older than that of any base image."""


def main() -> None:
    """Install, make reproducible, and write the bill of materials."""
    step, target, arch = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    if step == "libraries":
        _pip_install(target, arch, ["--require-hashes", f"--requirement={HERE}/requirements.lock"])
        shutil.rmtree(target / "bin", ignore_errors=True)
        _trim(target)
        _compile(target)
        return
    role, interpreter = sys.argv[4], sys.argv[5]
    library = target / "lib"
    (ours,) = (HERE / "own").glob("sled_inference-*.whl")
    _pip_install(library, arch, [f"sled-inference @ {ours.as_uri()}"])
    _keep_scripts(library, target / "bin", SCRIPTS[role], interpreter)
    _trim(library)
    _compile(library)
    bill = _bill([str(library), "/opt/libraries"])
    (target / "sbom.cdx.json").write_text(json.dumps(bill, indent=1, sort_keys=True))


def _pip_install(target: Path, arch: str, what: list[str]) -> None:
    (pip,) = (HERE / "wheels").glob("pip-*.whl")
    command = [sys.executable, f"{pip}/pip", "install", "--no-index", "--no-deps"]
    command += [f"--find-links={HERE}/wheels", "--no-compile", "--no-cache-dir", "--quiet"]
    command += ["--only-binary=:all:", "--disable-pip-version-check", "--root-user-action=ignore"]
    for minor in GLIBC:
        command.append(f"--platform=manylinux_2_{minor}_{PLATFORMS[arch]}")
    command += [f"--platform=manylinux2014_{PLATFORMS[arch]}", f"--target={target}"]
    subprocess.run([*command, *what], check=True)


def _compile(library: Path) -> None:
    """Byte code that nothing checks against time stamps: the image's files never change."""
    compileall.compile_dir(
        library,
        quiet=1,
        stripdir=str(library),
        prependdir="/opt/sled",
        invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
    )


def _keep_scripts(library: Path, folder: Path, names: tuple[str, ...], interpreter: str) -> None:
    folder.mkdir(parents=True)
    for name in names:
        script = (library / "bin" / name).read_text().splitlines(keepends=True)
        (folder / name).write_text(f"#!{interpreter}\n" + "".join(script[1:]))
        (folder / name).chmod(0o755)
    shutil.rmtree(library / "bin")


def _trim(library: Path) -> None:
    """Tests of other projects are a quarter of some of them."""
    for folder in sorted(library.glob("**/tests")):
        shutil.rmtree(folder, ignore_errors=True)
    for record in library.glob("*.dist-info/direct_url.json"):
        record.unlink()


def _bill(path: list) -> dict:
    """CycloneDX 1.6: Python packages of this image, Debian packages of its base."""
    components = [_python_component(each) for each in metadata.distributions(path=path)]
    components += _debian_components(Path("/var/lib/dpkg/status"))
    components.sort(key=lambda each: (each["purl"], each["version"]))
    return {"bomFormat": "CycloneDX", "specVersion": "1.6", "version": 1, "components": components}


def _python_component(found: metadata.Distribution) -> dict:
    name, version = found.metadata["Name"], found.version
    component = {
        "type": "library",
        "name": name,
        "version": version,
        "purl": f"pkg:pypi/{name.lower().replace('_', '-')}@{version}",
    }
    licence = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    if licence and "\n" not in licence:
        component["licenses"] = [{"license": {"name": licence}}]
    return component


def _debian_components(status: Path) -> list:
    if not status.exists():
        return []
    components = []
    for paragraph in status.read_text().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if ": " in line[:30])
        if "Package" in fields and "Version" in fields:
            name, version = fields["Package"], fields["Version"]
            purl = f"pkg:deb/debian/{name}@{version}?arch={fields.get('Architecture', 'all')}"
            components.append({"type": "library", "name": name, "version": version, "purl": purl})
    return components


if __name__ == "__main__":
    os.umask(0o022)
    main()
