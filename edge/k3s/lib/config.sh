# shellcheck shell=sh
# What is written for K3s: token, configuration, registries, images. The token goes from file to file
# and is never a word of a command or the value of a variable.

TOKEN_PATH=/etc/rancher/k3s/sled-join-token
CONFIG_PATH=/etc/rancher/k3s/config.yaml.d/50-sled.yaml
REGISTRIES_PATH=/etc/rancher/k3s/registries.yaml
REGISTRY_CA_PATH=/etc/rancher/k3s/sled-registry-ca.crt
IMAGES_DIR=/var/lib/rancher/k3s/agent/images
# The kubelet's credentials appear once the server has accepted the token.
JOINED_MARK=/var/lib/rancher/k3s/agent/kubelet.kubeconfig
DRAFTS_DIR=/var/lib/sled/drafts
# The user and group of SLED's pods.
POD_USER=65532

# read_token: checks the token and leaves it in $SCRATCH/token
read_token() {
    if [ "$TOKEN_FILE" = - ]; then
        [ -t 0 ] && say 'type the token, then Enter and Ctrl-D'
        tr -d '\r' >"$SCRATCH/token"
    else
        [ -r "$TOKEN_FILE" ] || fail 1 "cannot read the token file $TOKEN_FILE"
        if [ -n "$(find -H "$TOKEN_FILE" -prune \( -perm -040 -o -perm -020 -o -perm -004 -o -perm -002 \) -print)" ]; then
            fail 1 "others may read or write the token file $TOKEN_FILE: chmod 600 it"
        fi
        tr -d '\r' <"$TOKEN_FILE" >"$SCRATCH/token"
    fi
    [ "$(grep -c . "$SCRATCH/token")" = 1 ] || fail 1 "the token must be one line, and is not"
    grep -Eqx '[A-Za-z0-9:._+/=-]+' "$SCRATCH/token" || fail 1 "the token has characters that no K3s token has"
    grep -Eq '^K10[0-9a-f]{64}::' "$SCRATCH/token" || [ "$TRUST" = 1 ] ||
        fail 1 "the token does not pin the server's certificate authority; take the one in the server's" \
            "/var/lib/rancher/k3s/server/node-token, which begins with K10, or pass --trust-on-first-use"
}

config() {
    echo '# Written by sled-edge-join; sled-edge-join --undo removes it.'
    echo "server: \"$SERVER\""
    echo "token-file: \"$TOKEN_PATH\""
    [ -z "$NODE_NAME" ] || echo "node-name: \"$NODE_NAME\""
    # every pod sees the GPU that its image asks for; K3s finds the runtime by itself
    [ "$RUNTIME" = cpu ] || echo 'default-runtime: "nvidia"'
    echo 'node-label+:'
    labels | sed 's/.*/  - "&"/'
    [ -z "$TAINTS" ] && return
    echo 'node-taint+:'
    printf '%s\n' "$TAINTS" | sed 's/.*/  - "&"/'
}

registries() {
    echo '# Written by sled-edge-join; sled-edge-join --undo removes it.'
    echo 'mirrors:'
    printf '%s\n' "$MIRRORS" | awk '
        !($1 in urls) { order[++count] = $1 }
        { urls[$1] = urls[$1] "      - \"" $2 "\"\n" }
        END { for (i = 1; i <= count; i++) printf "  \"%s\":\n    endpoint:\n%s", order[i], urls[order[i]] }'
    [ -z "$REGISTRY_CA" ] && return
    echo 'configs:'
    printf '%s\n' "$MIRRORS" | awk '{ sub(/^https:\/\//, "", $2); sub(/\/.*/, "", $2); print $2 }' | sort -u |
        sed "s|.*|  \"&\":\\
    tls:\\
      ca_file: \"$REGISTRY_CA_PATH\"|"
}

write_config() {
    place "$SCRATCH/token" "$TOKEN_PATH" 600 secret
    config >"$SCRATCH/config"
    if [ -e "$ROOT$JOINED_MARK" ] && ! cmp -s "$SCRATCH/config" "$ROOT$CONFIG_PATH"; then
        say "this node is registered: labels and taints that change here are to be changed with kubectl too"
    fi
    place "$SCRATCH/config" "$CONFIG_PATH" 600
    if [ -n "$MIRRORS" ]; then
        registries >"$SCRATCH/registries"
        place "$SCRATCH/registries" "$REGISTRIES_PATH" 600
    else
        drop "$REGISTRIES_PATH"
    fi
    if [ -n "$REGISTRY_CA" ]; then
        place "$REGISTRY_CA" "$REGISTRY_CA_PATH" 644 data
    else
        drop "$REGISTRY_CA_PATH"
    fi
    drafts_folder
}

# Draft models that outlive a pod (an EdgeDrafter's cache of type HostPath) need a folder that the pods may write.
drafts_folder() {
    folder "$(dirname "$DRAFTS_DIR")"
    [ -d "$ROOT$DRAFTS_DIR" ] && return
    dry "make $DRAFTS_DIR for draft models" && return
    remember drafts "$DRAFTS_DIR"
    mkdir "$ROOT$DRAFTS_DIR"
    chmod 750 "$ROOT$DRAFTS_DIR"
    if [ "$(id -u)" = 0 ]; then chown "$POD_USER:$POD_USER" "$ROOT$DRAFTS_DIR"; fi
}

write_images() {
    [ -n "$IMAGES" ] || return 0
    printf '%s\n' "$IMAGES" >"$SCRATCH/images"
    while IFS= read -r archive; do
        place "$archive" "$IMAGES_DIR/$(basename "$archive")" 644 data
    done <"$SCRATCH/images"
}
