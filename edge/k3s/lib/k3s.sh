# shellcheck shell=sh
# K3s itself: fetched or taken from disk, installed by its own installer, started and waited for.

K3S_PINNED=v1.36.3+k3s1
BIN_DIR=/usr/local/bin
SOURCES=https://raw.githubusercontent.com/k3s-io/k3s
POLL_SECONDS=2

# version_of PROGRAM: v1.36.3+k3s1, or nothing
version_of() {
    [ -x "$1" ] || return 0
    "$1" --version 2>/dev/null | sed -n '1s/^k3s version \([^ ]*\).*/\1/p'
}

install_k3s() {
    if [ -n "$ROOT" ]; then
        say "nothing is installed under --root: run this again on the device, and it goes on from here"
        return
    fi
    have=$(version_of "$BIN_DIR/k3s")
    if [ "$have" = "$K3S_VERSION" ] && ours k3s installed; then
        say "unchanged K3s $have"
        return
    fi
    changed
    dry "install K3s $K3S_VERSION${have:+ in place of $have} as an agent" && return
    fetch_installer
    remember_traces
    remember k3s agent
    forget k3s installed
    if [ -n "$K3S_BINARY" ]; then
        remember file "$BIN_DIR/k3s"
        place "$K3S_BINARY" "$BIN_DIR/k3s" 755 data
    fi
    say "running K3s's installer for $K3S_VERSION"
    run_installer || fail 1 "K3s's installer failed; what it said stands above. Nothing else was changed: run this again, or --undo"
    have=$(version_of "$BIN_DIR/k3s")
    [ "$have" = "$K3S_VERSION" ] || fail 1 "K3s's installer left ${have:-no K3s} where $K3S_VERSION was asked for"
    remember k3s installed
}

check_k3s_version() {
    if [ -e "$BIN_DIR/k3s" ] && ! ours k3s agent; then
        fail 1 "$BIN_DIR/k3s is there already and this kit did not install it; remove it first"
    fi
    have=$(version_of "$BIN_DIR/k3s")
    if [ -n "$have" ] && [ "$(number "$have")" -gt "$(number "$K3S_VERSION")" ]; then
        fail 1 "K3s here is $have, newer than $K3S_VERSION, and K3s cannot be taken back to an older version;" \
            "pass --k3s-version $have, or --undo first"
    fi
}

# Folders that K3s makes and its uninstaller leaves: ours to remove only if they are not here before.
remember_traces() {
    ours k3s agent && return
    for trace in /var/lib/rancher /etc/rancher/node /var/log/pods /var/log/containers; do
        [ -e "$trace" ] || remember trace "$trace"
    done
}

check_given_binary() {
    [ -n "$K3S_BINARY" ] || return 0
    [ "$DRY_RUN" = 0 ] || [ -x "$K3S_BINARY" ] || return 0
    if [ -x "$K3S_BINARY" ]; then
        given=$(version_of "$K3S_BINARY")
    else
        # not in $SCRATCH: /run may forbid programs
        PROBE=$BIN_DIR/k3s.sled-new
        cp "$K3S_BINARY" "$PROBE"
        chmod 700 "$PROBE"
        given=$(version_of "$PROBE")
        rm -f "$PROBE"
    fi
    [ "$given" = "$K3S_VERSION" ] ||
        fail 1 "$K3S_BINARY is ${given:-not a K3s that runs on this device}, and $K3S_VERSION is to be installed;" \
            "take that file, or pass --k3s-version"
}

fetch_installer() {
    [ -n "$INSTALLER" ] && return
    url=$SOURCES/$(printf '%s' "$K3S_VERSION" | sed 's/+/%2B/')/install.sh
    say "fetching K3s's installer"
    INSTALLER=$SCRATCH/install.sh
    if command -v curl >/dev/null; then
        curl --fail --silent --show-error --location --max-time 120 --output "$INSTALLER" "$url" && return
    elif command -v wget >/dev/null; then
        wget -q -T 120 -O "$INSTALLER" "$url" && return
    else
        fail 1 "neither curl nor wget is here to fetch K3s's installer; bring it: --installer FILE"
    fi
    fail 1 "cannot fetch $url; without a network bring it and K3s: --installer FILE --k3s-binary FILE"
}

# The installer would save every K3S_ variable into a file; whatever is set here is not for it. It does not start
# the service either, because that waits for the server without limit.
run_installer() (
    for name in $(env | sed -n 's/^\(\(INSTALL_\)\{0,1\}K3S_[A-Z0-9_]*\)=.*/\1/p'); do unset "$name"; done
    umask 022
    skip=false
    [ -z "$K3S_BINARY" ] || skip=true
    INSTALL_K3S_VERSION=$K3S_VERSION INSTALL_K3S_EXEC=agent INSTALL_K3S_BIN_DIR=$BIN_DIR \
        INSTALL_K3S_SKIP_START=true INSTALL_K3S_SKIP_DOWNLOAD=$skip sh "$INSTALLER"
)

start_k3s() {
    [ -n "$ROOT" ] && return
    if [ "$CHANGED" = 0 ] && ! ours restart pending && joined; then
        say "unchanged and running"
        return
    fi
    dry "start k3s-agent and wait up to $WAIT s until it has joined" && return
    # K3s writes it anew at each start; the one from before says nothing about this start
    rm -f "$JOINED_MARK"
    systemctl restart --no-block k3s-agent ||
        fail 1 "systemd does not start k3s-agent; what it said stands above. Run this again, or --undo"
    waited=0
    until joined; do
        [ "$waited" -lt "$WAIT" ] || fail 1 "the node has not joined in $WAIT s. Is $SERVER reachable, the token right," \
            "and the node's name free? journalctl -u k3s-agent says more; K3s keeps trying"
        [ $((waited % 20)) -ne 0 ] || say "waiting for $SERVER"
        sleep "$POLL_SECONDS"
        waited=$((waited + POLL_SECONDS))
    done
    forget restart pending
    say "joined $SERVER"
}

joined() {
    [ -e "$JOINED_MARK" ] && [ "$(systemctl is-active k3s-agent 2>/dev/null)" = active ]
}
