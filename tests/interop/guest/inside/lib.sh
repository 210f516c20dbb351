# What scripts in the guest share: . /rig/lib.sh
# shellcheck shell=bash
set -o pipefail

# Lines to and from the driver. Kept open: what was not read is lost when a port is closed.
exec 9<>/dev/rig/events

say() {
    local now
    read -r now _ </proc/uptime
    echo "[$now] $*"
}

# Uncommon ends are told in one line; the status of the script is 1.
fail() {
    say "FAILED: $*"
    exit 1
}

# Ask the driver to do something on the host and wait until it has; its answer is printed.
ask() {
    local answer
    echo "$*" >&9
    read -r answer <&9
    [[ $answer == "ok"* ]] || fail "the driver answered \"$answer\" to \"$*\""
    answer=${answer#ok}
    echo "${answer# }"
}

# Try a command until it succeeds: until_ok SECONDS COMMAND...
until_ok() {
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || fail "still not: $*"
        sleep 0.1
    done
}

is_disk() {
    local size
    [ -b "$1" ] && size=$(blockdev --getsize64 "$1" 2>/dev/null) && [ "$size" -gt 0 ]
}

start_udev() {
    /lib/systemd/systemd-udevd --daemon --resolve-names=never
    udevadm trigger --action=add
    udevadm settle -t 60
}

# ---------------------------------------------------------------- iSCSI

start_iscsi() {
    modprobe -a iscsi_tcp sd_mod sg
    mkdir -p /run/lock/iscsi /etc/iscsi/nodes /etc/iscsi/send_targets
    # As the package's file with ours over it: later lines win.
    sed -i 's,^iscsid.startup.*,iscsid.startup = /sbin/iscsid,; s/^node.startup.*/node.startup = manual/' \
        /etc/iscsi/iscsid.conf
    cat /rig/initiator/iscsid.conf >>/etc/iscsi/iscsid.conf
    iscsid
}

# The disk of one session by its portal: iscsi_disk ADDRESS:PORT
iscsi_disk() {
    local session path
    for session in /sys/class/iscsi_session/session*; do
        path=$(echo "$session"/device/connection*/iscsi_connection/connection*)
        [ "$(<"$path/persistent_address"):$(<"$path/persistent_port")" = "$1" ] || continue
        path=$(echo "$session"/device/target*/*/block/sd*)
        [ -e "$path" ] && echo "/dev/${path##*/}" && return 0
    done
    return 1
}

no_iscsi_session() {
    [ -z "$(ls -A /sys/class/iscsi_session)" ]
}

# ---------------------------------------------------------------- NVMe/TCP

start_nvme() {
    modprobe -a nvme_tcp
    mkdir -p /etc/nvme
    cat /proc/sys/kernel/random/uuid >/etc/nvme/hostid
    echo "nqn.2014-08.org.nvmexpress:uuid:$(</etc/nvme/hostid)" >/etc/nvme/hostnqn
}

# nvme_connect ADDRESS:PORT MORE...; the subsystem is $NQN
nvme_connect() {
    local portal=$1
    shift
    # shellcheck disable=SC2046 # one option a line
    nvme connect -t tcp -a "${portal%:*}" -s "${portal#*:}" -n "$NQN" $(grep -v '^#' /rig/initiator/nvme.options) "$@"
}

# The disk that all paths make.
nvme_disk() {
    local found
    for found in /sys/class/nvme-subsystem/nvme-subsys*/nvme*n*; do
        [[ ${found##*/} =~ ^nvme[0-9]+n[0-9]+$ ]] && echo "/dev/${found##*/}" && return 0
    done
    return 1
}

no_nvme_controller() {
    [ -z "$(ls -A /sys/class/nvme)" ]
}

# ---------------------------------------------------------------- NBD

# nbd_connect ADDRESS:PORT DEVICE MORE...; the export is $EXPORT. The nodes' certificate is for "localhost".
nbd_connect() {
    local portal=$1 device=$2
    shift 2
    nbd-client "${portal%:*}" "${portal#*:}" "$device" -N "$EXPORT" -b 4096 -timeout 30 -cacertfile /rig/tls/ca-cert.pem \
        -certfile /rig/tls/client-cert.pem -keyfile /rig/tls/client-key.pem -tlshostname localhost "$@"
}

# ---------------------------------------------------------------- multipath

start_multipath() {
    modprobe -a dm_mod dm_multipath dm_service_time scsi_dh_alua
    mkdir -p /etc/multipath
    cp /rig/initiator/multipath.conf /etc/multipath.conf
    multipathd
}

# The one multipath device: multipath_disk PATHS_WANTED
multipath_disk() {
    local name
    for name in $(dmsetup ls --target multipath | sed -n 's/\t.*//p'); do
        [ "$(dmsetup deps -o devname "$name" | grep -o '(sd[a-z]*)' | wc -l)" -ge "$1" ] || continue
        is_disk "/dev/mapper/$name" && echo "/dev/mapper/$name" && return 0
    done
    return 1
}

# ---------------------------------------------------------------- what every disk must bear

# A tree of small and large files: make_tree DIRECTORY
make_tree() {
    mkdir -p "$1/tree" || return 1
    cp -r /usr/lib/udev /etc "$1/tree" || return 1
    local number
    for number in 1 2 3 4; do
        head -c 3000000 /dev/urandom >"$1/tree/large.$number" || return 1
    done
    (cd "$1" && find tree -type f -print0 | sort -z | xargs -0 sha256sum) >/tmp/sums
}

same_tree() {
    (cd "$1" && sha256sum -c --quiet /tmp/sums)
}

# fio writes a region and reads it back: fio_verify FILE MIB
fio_verify() {
    fio --name=verify --filename="$1" --size="$2m" --rw=randwrite --bs=4k --iodepth=16 --ioengine=libaio --direct=1 \
        --verify=crc32c --do_verify=1 --verify_fatal=1 --output=/out/fio.txt ||
        fail "fio: $(tail -n 5 /out/fio.txt)"
    say "fio: $(grep -oE 'IOPS=[0-9.k]+' /out/fio.txt | tr '\n' ' ')"
}

# Both file systems on a disk, each made, used, checked, read again after a new mount: file_systems DISK
file_systems() {
    local kind mib
    modprobe xfs
    for kind in ext4 xfs; do
        say "mkfs.$kind"
        case $kind in
        ext4) mkfs.ext4 -q -F "$1" ;;
        xfs) mkfs.xfs -q -f "$1" ;;
        esac || fail "mkfs.$kind"
        mount -t $kind "$1" /mnt && make_tree /mnt && sync && umount /mnt || fail "$kind: a tree cannot be written"
        case $kind in
        ext4) e2fsck -fn "$1" >/out/fsck.$kind 2>&1 ;;
        xfs) xfs_repair -n "$1" >/out/fsck.$kind 2>&1 ;;
        esac || fail "$kind: fsck says $(tail -n 3 /out/fsck.$kind)"
        mount -t $kind "$1" /mnt && same_tree /mnt || fail "$kind: not what was written"
        if [ $kind = ext4 ]; then
            mib=$(du -sm /mnt/tree | cut -f1)
            rm -r /mnt/tree && sync || fail "rm"
            say "nodes hold $(ask used), $mib MiB are removed"
            fstrim -v /mnt || fail "fstrim"
            say "nodes hold $(ask trimmed "$mib")"
        fi
        umount /mnt || fail "umount"
        say "$kind is good"
    done
}
