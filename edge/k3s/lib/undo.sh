# shellcheck shell=sh
# Leaving: everything that was recorded goes, in reverse; what the kit did not make stays.

undo() {
    STEPS=3
    record=$ROOT$STATE/record
    [ ! -d "$ROOT$STATE" ] || [ -r "$record" ] || fail 1 "this must run as root: sudo sled-edge-join --undo"
    if [ ! -e "$record" ]; then
        say "nothing of sled-edge-join is here"
        return
    fi
    sed '1!G;h;$!d' "$record" >"$SCRATCH/reversed"
    step "K3s"
    remove_k3s
    step "files"
    while read -r kind value; do
        take_back "$kind" "$value"
    done <"$SCRATCH/reversed"
    step "the record of what was done"
    dry "remove $STATE" && return
    rm -f "$record"
    rmdir "$ROOT$STATE"
    say "this device has left. Its node stays in the cluster, not ready, until: kubectl delete node NAME"
}

remove_k3s() {
    [ -z "$ROOT" ] && ours k3s agent || return 0
    dry "stop and uninstall K3s, with its pods and images" && return
    if [ -x "$BIN_DIR/k3s-agent-uninstall.sh" ]; then
        "$BIN_DIR/k3s-agent-uninstall.sh" >"$SCRATCH/uninstall" 2>&1 || {
            sed 's/^/      /' "$SCRATCH/uninstall"
            fail 1 "K3s's uninstaller failed; nothing else was removed: run --undo again"
        }
    fi
    # what the uninstaller leaves: the node's password, and with it the folder
    rm -f /etc/rancher/node/password
    rmdir /etc/rancher/node 2>/dev/null || true
    say "removed K3s"
}

take_back() {
    case $1 in
        file)
            dry "remove $2" && return
            rm -f "$ROOT$2" "$ROOT$2.sled-new"
            ;;
        drafts)
            dry "remove the draft models in $2" && return
            rm -rf "${ROOT:?}$2"
            ;;
        folder)
            [ "$DRY_RUN" = 1 ] || rmdir "$ROOT$2" 2>/dev/null || true
            ;;
        boot)
            dry "take '$PARAMETERS' out of $2" && return
            [ -f "$ROOT$2" ] || return 0
            sed "1s/ $PARAMETERS//" "$ROOT$2" >"$SCRATCH/boot"
            cp "$SCRATCH/boot" "$ROOT$2"
            ;;
    esac
}
