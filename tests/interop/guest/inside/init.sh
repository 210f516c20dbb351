#!/bin/bash
# The guest's init: mounts, the network, one script, its results, power off. /rig/env says what is wanted.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8
mount -t proc proc /proc
mount -t sysfs sys /sys
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
for place in /dev/shm /run /tmp; do mount -t tmpfs tmpfs $place; done
mkdir -p /run/lock /run/udev
ln -sf /proc/self/fd /dev/fd
shopt -s nullglob
. /rig/env
modprobe -a -q virtio_console virtio_net virtio_rng crc32c_intel
mkdir -p /dev/rig
for port in /sys/class/virtio-ports/*; do ln -sf "/dev/${port##*/}" "/dev/rig/$(<"$port/name")"; done
ip link set lo up
for device in /sys/class/net/e*; do
    ip link set "${device##*/}" up
    ip addr add "$GUEST_ADDRESS" dev "${device##*/}"
done
exec </dev/null >/dev/rig/out 2>&1
read -r uptime _ </proc/uptime
echo "guest: Linux $(uname -r) up after $uptime s"
cd /rig || exit
setsid bash -u /rig/script
status=$?
read -r uptime _ </proc/uptime
echo "guest: script ended with $status after $uptime s"
dmesg >/out/dmesg
tar -C /out -cf /dev/rig/files .
echo $status >/dev/rig/status
sync
echo 1 >/proc/sys/kernel/sysrq
busybox poweroff -f
