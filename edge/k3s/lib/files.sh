# shellcheck shell=sh
# Files on the device: placed whole or not at all, and remembered before they are placed, so that
# --undo finds them also after a crash.

STATE=/var/lib/sled-edge-join
CHANGED=0

# changed: K3s must be restarted, if not by this run, which may end early, then by the next one
changed() {
    CHANGED=1
    [ "$DRY_RUN" = 1 ] || remember restart pending
}

remember() {
    ours "$1" "$2" && return
    mkdir -p "$ROOT$STATE"
    chmod 700 "$ROOT$STATE"
    printf '%s %s\n' "$1" "$2" >>"$ROOT$STATE/record"
}

# forget KIND VALUE
forget() {
    ours "$1" "$2" || return 0
    grep -vxF "$1 $2" "$ROOT$STATE/record" >"$ROOT$STATE/record.new" || true
    mv -f "$ROOT$STATE/record.new" "$ROOT$STATE/record"
}

# ours KIND VALUE: whether this kit did that
ours() {
    grep -qxF "$1 $2" "$ROOT$STATE/record" 2>/dev/null
}

# folder PATH [MODE]
folder() {
    [ -d "$ROOT$1" ] && return
    folder "$(dirname "$1")"
    [ "$DRY_RUN" = 1 ] && return
    remember folder "$1"
    mkdir "$ROOT$1"
    chmod "${2:-755}" "$ROOT$1"
}

# place SOURCE PATH MODE [secret|data]: contents are shown in a dry run unless a kind is given
place() {
    if [ -e "$ROOT$2" ] && cmp -s "$1" "$ROOT$2"; then
        ours file "$2" && [ "$DRY_RUN" = 0 ] && chmod "$3" "$ROOT$2"
        say "unchanged $2"
        return
    fi
    if [ -e "$ROOT$2" ] && ! ours file "$2"; then
        fail 1 "$2 is there already and was not written by this kit; move it away, or merge it by hand and leave the option out"
    fi
    changed
    if dry "write $2 (mode $3)"; then
        [ $# -gt 3 ] || sed 's/^/        | /' "$1"
        return
    fi
    folder "$(dirname "$2")"
    remember file "$2"
    cp "$1" "$ROOT$2.sled-new"
    chmod "$3" "$ROOT$2.sled-new"
    mv -f "$ROOT$2.sled-new" "$ROOT$2"
    say "wrote $2"
}

# drop PATH: takes back a file of ours that the options no longer ask for
drop() {
    ours file "$1" || return 0
    [ -e "$ROOT$1" ] || return 0
    changed
    dry "remove $1, which is no longer asked for" && return
    rm -f "$ROOT$1"
    say "removed $1, which is no longer asked for"
}
