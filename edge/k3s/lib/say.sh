# shellcheck shell=sh
# What a person sees: steps, notes, errors. Nothing here is ever given a token.

STEP=0
STEPS=0

step() {
    STEP=$((STEP + 1))
    printf '[%d/%d] %s\n' "$STEP" "$STEPS" "$*"
}

say() {
    printf '      %s\n' "$*"
}

# dry WORDS: true in a dry run, which only says what it would do
dry() {
    [ "$DRY_RUN" = 1 ] || return 1
    say "would $*"
}

# fail CODE SENTENCE: 1 the device or the cluster, 2 the command line, 3 reboot and run again
fail() {
    code=$1
    shift
    printf 'sled-edge-join: %s\n' "$*" >&2
    exit "$code"
}

wrong() {
    fail 2 "$* (sled-edge-join --help says more)"
}

help() {
    cat <<EOF
sled-edge-join: make this device a node of a K3s cluster that drafts for SLED, or undo that.

  sled-edge-join --server URL --token-file FILE [options]    join, or bring up to date
  sled-edge-join --detect                                    say what this device is
  sled-edge-join --undo                                      leave, and remove everything again

Cluster
  --server URL               the K3s server: https://host:6443
  --token-file FILE          the join token, in a file that its owner alone may read; - is standard input
  --trust-on-first-use       accept a token that does not pin the server's certificate authority
  --node-name NAME           name of the node (default: the host name)

Device
  --device-class NAME        class for the operator, instead of the detected one
  --without-gpu              draft on the CPU of a device that has a GPU
  --label KEY=VALUE          another node label; may be repeated
  --taint KEY[=VALUE]:EFFECT a node taint; may be repeated
  --dedicated                the taint sled.dev/edge=true:NoSchedule: only pods that tolerate it run here

K3s
  --k3s-version VERSION      version to install (default: $K3S_PINNED)
  --registry-mirror [REGISTRY=]URL   pull REGISTRY (default: every one) from URL; may be repeated
  --registry-ca FILE         certificate authority of the mirrors
  --images PATH              image archive (.tar, .tar.gz, .tar.zst) or folder of them, to import; may be repeated
  --k3s-binary FILE          K3s itself, from disk: nothing is downloaded
  --installer FILE           K3s's install.sh, from disk
  --wait SECONDS             how long to wait until the node has joined (default: 180)

Other
  --dry-run                  say what would be done, and change nothing; needs no root
  --root DIR                 read the device and write its files under DIR instead of /, and start nothing:
                             for an image that is not booted yet
  --version, --help

It may be run again at any time, with other options too; it changes what differs and restarts K3s only then.
Labels and taints are given to a node when it registers; later ones are set with kubectl.
Exit status: 0 done, 1 failed, 2 wrong command line, 3 reboot and run it again.
EOF
}
