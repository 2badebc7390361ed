# shellcheck shell=sh
# What must hold on the device before anything is changed.

check_device() {
    detect
    say "${BOARD:-an unnamed board}, $(machine)"
    say "device class $CLASS, runtime $RUNTIME${L4T:+, L4T $L4T}"
    check_nvidia
    [ ! -d "$ROOT$STATE" ] || [ -r "$ROOT$STATE" ] ||
        fail 1 "what this kit did here can be read by root only: run this with sudo"
    [ -n "$ROOT" ] && return
    [ "$DRY_RUN" = 1 ] || [ "$(id -u)" = 0 ] || fail 1 "this must run as root: sudo sled-edge-join ..."
    [ -d /run/systemd/system ] || fail 1 "this system does not run systemd, which starts K3s here"
    check_k3s_is_ours
    check_given_binary
    check_k3s_version
}

check_k3s_is_ours() {
    for unit in k3s k3s-agent; do
        [ -e "/etc/systemd/system/$unit.service" ] || continue
        [ $unit = k3s-agent ] && ours k3s agent && continue
        fail 1 "K3s is on this machine already ($unit.service) and this kit did not install it;" \
            "remove it with $BIN_DIR/$unit-uninstall.sh first"
    done
}

# ---- memory accounting ---------------------------------------------------------------------------

PARAMETERS='cgroup_memory=1 cgroup_enable=memory'

# Raspberry Pi OS starts without the memory controller, and the kubelet does not start without it.
check_memory_cgroup() {
    grep -qsw memory "$ROOT/sys/fs/cgroup/cgroup.controllers" && return
    awk '$1 == "memory" && $4 == 1 { found = 1 } END { exit !found }' "$ROOT/proc/cgroups" 2>/dev/null && return
    file=$(boot_file)
    if [ -z "$file" ] && [ -n "$ROOT" ]; then
        say "whether its kernel accounts memory cannot be told from here"
        return
    fi
    [ -n "$file" ] || fail 1 "the kernel does not account memory (no memory cgroup), and nothing here says how it is booted"
    if grep -q 'cgroup_enable=memory' "$ROOT$file"; then
        fail 3 "the kernel does not account memory yet; $file asks for it: reboot, then run this again"
    fi
    dry "add '$PARAMETERS' to $file, and ask for a reboot" && return
    remember boot "$file"
    sed "1s/[[:space:]]*\$/ $PARAMETERS/" "$ROOT$file" >"$SCRATCH/boot"
    cp "$SCRATCH/boot" "$ROOT$file"
    [ -n "$ROOT" ] && say "added '$PARAMETERS' to $file" && return
    fail 3 "the kernel does not account memory; '$PARAMETERS' was added to $file: reboot, then run this again"
}

boot_file() {
    for place in /boot/firmware/cmdline.txt /boot/cmdline.txt; do
        if [ -f "$ROOT$place" ] && [ ! -L "$ROOT$place" ]; then
            echo "$place"
            return
        fi
    done
}
