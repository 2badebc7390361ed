#!/bin/sh
# Stands in for K3s's installer: takes the same settings, and writes the same files in the same order.
set -eu
printf '%s\n' "install.sh $*" >>/record/calls
bin=$INSTALL_K3S_BIN_DIR units=/etc/systemd/system
unit=$units/k3s-$INSTALL_K3S_EXEC.service

if [ -e /record/installer-fails ]; then
    echo '[ERROR]  Download failed' >&2
    exit 1
fi
if [ "$INSTALL_K3S_SKIP_DOWNLOAD" != true ]; then
    cp "/record/internet/k3s-$INSTALL_K3S_VERSION" "$bin/k3s"
    chmod 755 "$bin/k3s"
fi
"$bin/k3s" --version >/record/installed
for command in kubectl crictl ctr; do
    [ -e "$bin/$command" ] || [ -L "$bin/$command" ] || ln -s k3s "$bin/$command"
done
printf '%s\n' '#!/bin/sh' 'systemctl stop k3s-agent' 'rm -rf /var/lib/cni' | tee "$bin/k3s-killall.sh" >/dev/null
chmod 755 "$bin/k3s-killall.sh"
tee "$bin/k3s-agent-uninstall.sh" >/dev/null <<END
#!/bin/sh
$bin/k3s-killall.sh
systemctl disable k3s-agent
systemctl daemon-reload
rm -f $unit $unit.env
for command in kubectl crictl ctr; do
    if [ -L $bin/\$command ]; then rm -f $bin/\$command; fi
done
rm -rf /etc/rancher/k3s /run/k3s /var/lib/rancher/k3s /var/lib/kubelet
rm -f $bin/k3s $bin/k3s-killall.sh
rm -f $bin/k3s-agent-uninstall.sh
END
chmod 755 "$bin/k3s-agent-uninstall.sh"
systemctl disable k3s-agent
rm -f "$unit" "$unit.env"
touch "$unit.env"
chmod 600 "$unit.env"
export -p | grep -E '^export K3S_' >"$unit.env" || true
printf '%s\n' '[Service]' "ExecStart=$bin/k3s $INSTALL_K3S_EXEC" | tee "$unit" >/dev/null
systemctl enable "$unit"
systemctl daemon-reload
[ "$INSTALL_K3S_SKIP_START" = true ] || systemctl restart "k3s-$INSTALL_K3S_EXEC"
