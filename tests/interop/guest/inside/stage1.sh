#!/bin/busybox sh
# First process in the guest: reach the disk, lay memory over it, go on with inside/init.sh.
b=/bin/busybox
$b mkdir -p /proc /sys /dev /ro /rw /new
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b mount -t devtmpfs dev /dev
$b modprobe -a -q crc32c_generic virtio_pci virtio_blk overlay ext4
tries=0
while [ ! -b /dev/vda ] && [ $tries -lt 200 ]; do $b usleep 50000; tries=$((tries + 1)); done
$b mount -t ext4 -o ro /dev/vda /ro || { echo "guest: no root file system"; $b poweroff -f; }
$b mount -t tmpfs -o size=60%,mode=755 rw /rw
$b mkdir /rw/upper /rw/work
$b mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work over /new || {
    echo "guest: no overlay"
    $b poweroff -f
}
$b cp -a /rig/. /new/rig/
$b umount /proc
$b umount /sys
$b mount --move /dev /new/dev
exec $b switch_root /new /rig/init.sh
