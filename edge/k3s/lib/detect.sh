# shellcheck shell=sh
# What this device is: board, device class as the operator knows it, runtime of the drafter's image.
# Reads the device tree, /proc and package files under $ROOT; runs nothing of NVIDIA's.

MODEL=''
BOARD=''
CLASS=''
RUNTIME=cpu
L4T=''

# tree NAME: a property of the device tree as lines, or nothing on a machine without one
tree() {
    for place in "$ROOT/proc/device-tree" "$ROOT/sys/firmware/devicetree/base"; do
        if [ -r "$place/$1" ]; then
            tr '\000' '\n' <"$place/$1"
            return
        fi
    done
}

machine() {
    printf '%s\n' "${SLED_MACHINE:-$(uname -m)}"
}

detect() {
    MODEL=$(tree model | sed -n 1p)
    BOARD=${MODEL:-$(sed -n 1p "$ROOT/sys/class/dmi/id/product_name" 2>/dev/null || true)}
    CLASS=${GIVEN_CLASS:-$(class_of)}
    [ -n "$CLASS" ] || fail 1 "this device is unknown (${BOARD:-it has no name}, $(machine));" \
        "name its class yourself: --device-class NAME, with the name that your EdgeDrafter uses, or arm64"
    RUNTIME=$(runtime_of "$CLASS")
    if [ "$RUNTIME" != cpu ] && [ "$WITHOUT_GPU" = 1 ]; then
        [ -n "$GIVEN_CLASS" ] && wrong "--without-gpu and --device-class $CLASS contradict each other"
        CLASS=${CLASS%-cuda}
        [ "$RUNTIME" = cuda ] || CLASS=$CLASS-cpu
        RUNTIME=cpu
    fi
    L4T=$(l4t_release)
    check_processor
}

# The classes are those of the operator (sled_operator.assignment.classes).
class_of() {
    case $MODEL in
        'Raspberry Pi 4 '* | 'Raspberry Pi 400'* | 'Raspberry Pi Compute Module 4'*) echo pi4 ;;
        'Raspberry Pi 5 '* | 'Raspberry Pi 500'* | 'Raspberry Pi Compute Module 5'*) echo pi5 ;;
        'Raspberry Pi'*) ;;
        '') class_without_tree ;;
        *) jetson_class ;;
    esac
}

class_without_tree() {
    case $(machine) in
        x86_64 | amd64) if has_nvidia_gpu; then echo x86-cuda; else echo x86; fi ;;
    esac
}

# Carrier boards have names of their own; the module's part number tells what computes.
jetson_class() {
    parts=$(tree compatible)
    case $parts in
        *nvidia,p3767-000[01]*) echo orin-nx ;;
        *nvidia,p3767-*) echo orin-nano ;;
        *nvidia,tegra234*) jetson_by_name orin ;;
        *nvidia,tegra194*) echo xavier ;;
        *) jetson_by_name '' ;;
    esac
}

jetson_by_name() {
    case $MODEL in
        *NVIDIA*'Orin Nano'*) echo orin-nano ;;
        *NVIDIA*'Orin NX'*) echo orin-nx ;;
        *NVIDIA*Orin*) echo orin ;;
        *NVIDIA*Xavier* | Jetson-AGX*) echo xavier ;;
        *) printf '%s' "$1" ;;
    esac
}

runtime_of() {
    case $1 in
        *-cuda) echo cuda ;;
        orin-nano | orin-nx | orin | xavier | *-l4t) echo l4t ;;
        *) echo cpu ;;
    esac
}

has_nvidia_gpu() {
    for found in "$ROOT"/proc/driver/nvidia/gpus/*; do
        [ -e "$found" ] && return 0
    done
    return 1
}

# "# R36 (release), REVISION: 4.0, ..." is 36.4.0
l4t_release() {
    sed -n 's/^# R\([0-9]*\) (release), REVISION: \([0-9.]*\),.*/\1.\2/p' "$ROOT/etc/nv_tegra_release" 2>/dev/null || true
}

check_processor() {
    case $(machine) in
        x86_64 | amd64 | aarch64 | arm64) ;;
        *) fail 1 "SLED's images are for arm64 and amd64, and this system is $(machine);" \
            "a 64-bit board needs a 64-bit system" ;;
    esac
    if [ -z "$ROOT" ] && [ "$(getconf LONG_BIT 2>/dev/null || echo 64)" = 32 ]; then
        fail 1 "this system's programs are 32-bit; SLED's images are for arm64: install a 64-bit system"
    fi
}

# ---- NVIDIA's container runtime ------------------------------------------------------------------

TOOLKIT_LEAST=1.11.0

check_nvidia() {
    [ "$RUNTIME" = cpu ] && return
    for found in "$ROOT/usr/bin" "$ROOT/usr/local/bin" "$ROOT/usr/local/nvidia/toolkit"; do
        if [ -x "$found/nvidia-container-runtime" ]; then
            check_toolkit_version
            return
        fi
    done
    fail 1 "class $CLASS drafts on a GPU, and nvidia-container-runtime is not installed: install NVIDIA's container" \
        "toolkit (on JetPack: apt-get install nvidia-container), or pass --without-gpu"
}

check_toolkit_version() {
    have=$(awk -v RS= '/^Package: nvidia-container-toolkit\n/ {
        for (i = 1; i < NF; i++) if ($i == "Version:") print $(i + 1) }' "$ROOT/var/lib/dpkg/status" 2>/dev/null || true)
    [ -z "$have" ] && return
    [ "$(number "$have")" -ge "$(number "$TOOLKIT_LEAST")" ] ||
        fail 1 "NVIDIA's container toolkit is $have; integrated GPUs need $TOOLKIT_LEAST or newer"
}

# number VERSION: comparable, up to four parts: v1.36.3+k3s1 is 1036003001
number() {
    printf '%s\n' "$1" | awk -F '[^0-9]+' '{
        first = ($1 == "") ? 2 : 1
        value = 0
        for (i = first; i < first + 3; i++) value = value * 1000 + $i
        if ($0 !~ /k3s/) { print value * 1000; exit }
        sub(/.*k3s/, ""); print value * 1000 + $0 }'
}

# ---- labels --------------------------------------------------------------------------------------

labels() {
    echo sled.dev/drafter=true
    echo "sled.dev/device-class=$CLASS"
    echo "sled.dev/runtime=$RUNTIME"
    board=$(printf '%s' "$BOARD" | tr -c 'A-Za-z0-9._-' '-' | cut -c 1-63 | sed 's/^[^A-Za-z0-9]*//; s/[^A-Za-z0-9]*$//')
    [ -z "$board" ] || echo "sled.dev/board=$board"
    [ -z "$L4T" ] || echo "sled.dev/l4t=$L4T"
    [ -z "$LABELS" ] || printf '%s\n' "$LABELS"
}
