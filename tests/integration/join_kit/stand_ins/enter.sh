#!/bin/sh
# enter.sh DEVICE KIT RECORD USER COMMAND...: runs a command on a device that is a folder, in the namespaces that the
# caller has made. The host's programs are there, read-only; everything else is the device's own.
set -eu
device=$1 kit=$2 record=$3 user=$4
shift 4
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
root=$device/root

share() {
    mount --bind "$1" "$root/$2"
    mount -o remount,bind,ro "$root/$2"
}

mount --make-rprivate /
share /usr usr
mount --bind "$device/local" "$root/usr/local"
for name in bin sbin lib lib64; do
    [ -L "/$name" ] || [ ! -d "/$name" ] || share "/$name" "$name"
done
[ ! -d /etc/alternatives ] || share /etc/alternatives etc/alternatives
share "$kit" kit
share "$here" stand-ins
mount --bind "$record" "$root/record"
mount -t proc proc "$root/proc"
for name in null urandom; do mount --bind "/dev/$name" "$root/dev/$name"; done

chroot --userspec="$user" "$root" /usr/bin/env -i HOME=/root LC_ALL=C \
    PATH=/record/programs:/usr/local/bin:/usr/bin:/bin "$@"
