# shellcheck shell=sh
# Leaving: everything that was recorded goes, in reverse; what the kit did not make stays.

undo() {
    STEPS=3
    record=$ROOT$STATE/record
    [ ! -d "$ROOT$STATE" ] || [ -r "$ROOT$STATE" ] || fail 1 "this must run as root: sudo sled-edge-join --undo"
    # what a look at a given K3s leaves when it is cut off: the one file that is not recorded
    [ "$DRY_RUN" = 1 ] || [ -n "$ROOT" ] || [ "$(id -u)" != 0 ] || rm -f "$BIN_DIR/k3s.sled-new"
    if [ ! -e "$record" ]; then
        [ "$DRY_RUN" = 1 ] || [ ! -d "$ROOT$STATE" ] || rmdir "$ROOT$STATE"
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
    rm -f "$record" "$record.new"
    rmdir "$ROOT$STATE"
    say "this device has left. Its node stays in the cluster, not ready, until: kubectl delete node NAME"
}

remove_k3s() {
    [ -z "$ROOT" ] && ours k3s agent || return 0
    dry "stop and uninstall K3s, with its pods and images" && return
    keep_others_files
    if [ -x "$BIN_DIR/k3s-agent-uninstall.sh" ]; then
        "$BIN_DIR/k3s-agent-uninstall.sh" >"$SCRATCH/uninstall" 2>&1 || {
            sed 's/^/      /' "$SCRATCH/uninstall"
            fail 1 "K3s's uninstaller failed; nothing else was removed: run --undo again"
        }
    fi
    remove_leftovers
    bring_back_others_files
    say "removed K3s"
}

K3S_FOLDER=/etc/rancher/k3s

# K3s's uninstaller removes its whole folder, with what others had put there before K3s came.
keep_others_files() {
    [ -d "$K3S_FOLDER" ] && [ ! -e "$STATE/kept" ] && ! ours folder "$K3S_FOLDER" || return 0
    rm -rf "$STATE/kept.new"
    cp -a "$K3S_FOLDER" "$STATE/kept.new"
    mv "$STATE/kept.new" "$STATE/kept"
}

# what is ours in it goes with the other files that were recorded
bring_back_others_files() {
    [ -d "$STATE/kept" ] || return 0
    rm -rf "$K3S_FOLDER.sled-new"
    cp -a "$STATE/kept" "$K3S_FOLDER.sled-new"
    [ -e "$K3S_FOLDER" ] || mv "$K3S_FOLDER.sled-new" "$K3S_FOLDER"
    rm -rf "$K3S_FOLDER.sled-new" "$STATE/kept"
}

# What an installer that was cut off leaves, because it writes its uninstaller last.
remove_leftovers() {
    for link in kubectl crictl ctr; do
        [ "$(readlink "$BIN_DIR/$link" || true)" != k3s ] || rm -f "$BIN_DIR/$link"
    done
    rm -f "$BIN_DIR/k3s" "$BIN_DIR/k3s-killall.sh" "$BIN_DIR/k3s-agent-uninstall.sh" \
        /etc/systemd/system/k3s-agent.service /etc/systemd/system/k3s-agent.service.env
}

take_back() {
    case $1 in
        file)
            dry "remove $2" && return
            rm -f "$ROOT$2" "$ROOT$2.sled-new"
            ;;
        trace)
            dry "remove $2" && return
            rm -f "$2/password"
            case $2 in /var/log/*) rm -rf "$2" ;; *) rmdir "$2" 2>/dev/null || true ;; esac
            ;;
        drafts)
            dry "remove the draft models in $2" && return
            rm -rf "$ROOT${2:?}"
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
