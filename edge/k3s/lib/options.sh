# shellcheck shell=sh
# The command line: every value is checked here, so that what reaches a file or K3s is well formed.

NEWLINE='
'

read_options() {
    while [ $# -gt 0 ]; do
        option=$1
        case $option in
            --server | --token-file | --node-name | --device-class | --label | --taint | --k3s-version | \
                --registry-mirror | --registry-ca | --images | --k3s-binary | --installer | --wait | --root)
                [ $# -ge 2 ] || wrong "$option needs a value"
                value=$2
                shift
                ;;
            --*=*) wrong "write ${option%%=*} and its value as two words" ;;
        esac
        case $option in
            --server) SERVER=$(checked_server "$value") ;;
            --token-file) TOKEN_FILE=$value ;;
            --token) wrong "a token on a command line can be read by every user of the machine; use --token-file" ;;
            --trust-on-first-use) TRUST=1 ;;
            --node-name) NODE_NAME=$(checked_name "$value") ;;
            --device-class) GIVEN_CLASS=$(checked_class "$value") ;;
            --without-gpu) WITHOUT_GPU=1 ;;
            --label)
                item=$(checked_label "$value")
                LABELS=$(added "$LABELS" "$item")
                ;;
            --taint)
                item=$(checked_taint "$value")
                TAINTS=$(added "$TAINTS" "$item")
                ;;
            --dedicated) TAINTS=$(added "$TAINTS" sled.dev/edge=true:NoSchedule) ;;
            --k3s-version) K3S_VERSION=$(checked_version "$value") ;;
            --registry-mirror)
                item=$(checked_mirror "$value")
                MIRRORS=$(added "$MIRRORS" "$item")
                ;;
            --registry-ca) REGISTRY_CA=$(checked_file "$option" "$value") ;;
            --images)
                item=$(checked_images "$value")
                IMAGES=$(added "$IMAGES" "$item")
                ;;
            --k3s-binary) K3S_BINARY=$(checked_file "$option" "$value") ;;
            --installer) INSTALLER=$(checked_file "$option" "$value") ;;
            --wait) WAIT=$(checked_seconds "$value") ;;
            --root) ROOT=$(checked_root "$value") ;;
            --dry-run) DRY_RUN=1 ;;
            --detect) ACTION=detect ;;
            --undo) ACTION=undo ;;
            --help | -h)
                help
                exit 0
                ;;
            --version)
                echo "sled-edge-join, K3s $K3S_PINNED"
                exit 0
                ;;
            *) wrong "there is no option $option" ;;
        esac
        shift
    done
    [ "$ACTION" = join ] && check_join_options
    return 0
}

check_join_options() {
    [ -n "$SERVER" ] || wrong "--server is missing"
    [ -n "$TOKEN_FILE" ] || wrong "--token-file is missing"
    [ -z "$REGISTRY_CA" ] || [ -n "$MIRRORS" ] || wrong "--registry-ca needs a --registry-mirror"
    [ -z "$K3S_BINARY" ] || [ -n "$INSTALLER" ] || wrong "--k3s-binary needs --installer: without a network neither can be fetched"
}

# added LIST ITEM: a list is lines
added() {
    [ -z "$1" ] || printf '%s\n' "$1"
    printf '%s\n' "$2"
}

# matches VALUE PATTERN: the whole value, which is one line
matches() {
    case $1 in *"$NEWLINE"*) return 1 ;; esac
    printf '%s\n' "$1" | grep -Eqx -e "$2"
}

checked_server() {
    matches "$1" 'https://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(:[0-9]{1,5})?/?' ||
        wrong "--server is https://host:6443, not $1"
    printf '%s\n' "${1%/}"
}

checked_name() {
    matches "$1" '[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?' ||
        wrong "--node-name is lower-case letters, digits, - and ., 63 at most, not $1"
    printf '%s\n' "$1"
}

checked_class() {
    matches "$1" '[a-z0-9]([-a-z0-9]{0,18}[a-z0-9])?' ||
        wrong "--device-class is lower-case letters, digits and -, 20 at most, not $1"
    printf '%s\n' "$1"
}

KEY_PATTERN='([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?'
VALUE_PATTERN='([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?'

checked_label() {
    matches "$1" "$KEY_PATTERN=$VALUE_PATTERN" || wrong "--label is KEY=VALUE as Kubernetes has it, not $1"
    case ${1%%/*} in
        *kubernetes.io | *k8s.io) wrong "a node may not give itself the label ${1%%=*}; set it with kubectl" ;;
    esac
    case $1 in
        sled.dev/device-class=*) wrong "the class has an option of its own: --device-class" ;;
        drafter.sled.dev/*) wrong "labels under drafter.sled.dev belong to the operator" ;;
    esac
    printf '%s\n' "$1"
}

checked_taint() {
    matches "$1" "$KEY_PATTERN(=$VALUE_PATTERN)?:(NoSchedule|PreferNoSchedule|NoExecute)" ||
        wrong "--taint is KEY[=VALUE]:NoSchedule (or PreferNoSchedule, NoExecute), not $1"
    printf '%s\n' "$1"
}

checked_version() {
    matches "$1" 'v1\.[0-9]{1,3}\.[0-9]{1,3}\+k3s[0-9]{1,2}' || wrong "--k3s-version is like $K3S_PINNED, not $1"
    printf '%s\n' "$1"
}

checked_mirror() {
    case $1 in
        *=*) of=${1%%=*} url=${1#*=} ;;
        *) of='*' url=$1 ;;
    esac
    matches "$of" '\*|[A-Za-z0-9.-]+(:[0-9]{1,5})?' || wrong "$of is not the name of a registry"
    matches "$url" 'https://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._/-]*)?' ||
        wrong "a mirror is https://host[:port][/path], not $url"
    printf '%s %s\n' "$of" "$url"
}

checked_file() {
    [ -f "$2" ] && [ -r "$2" ] || wrong "$1: cannot read the file $2"
    printf '%s\n' "$2"
}

# checked_images PATH: the archives in it, sorted
checked_images() {
    [ -e "$1" ] || wrong "--images: there is no $1"
    found=$(find -H "$1" \( -name '*.tar' -o -name '*.tar.gz' -o -name '*.tgz' -o -name '*.tar.zst' \) -type f | sort)
    [ -n "$found" ] || wrong "--images: no .tar, .tar.gz, .tgz or .tar.zst in $1"
    printf '%s\n' "$found"
}

checked_seconds() {
    matches "$1" '[0-9]{1,4}' || wrong "--wait is a number of seconds, not $1"
    printf '%s\n' "$1"
}

checked_root() {
    [ -d "$1" ] || wrong "--root: there is no folder $1"
    case $(CDPATH='' cd -- "$1" && pwd) in
        /) ;;
        *) (CDPATH='' cd -- "$1" && pwd) ;;
    esac
}
