# Blocks asked of a node that was the primary: refused, whatever the rest of the cluster does. NQN, PORTALS, PRIMARY
. /rig/lib.sh
start_nvme
# Commands to one controller's own path (the character device ngXcYnZ), not to the disk that several paths make.
for portal in $PORTALS; do
    nvme_connect "$portal" --nr-io-queues=2 || fail "connect at $portal"
done
path_of() {
    local controller
    for controller in /sys/class/nvme/nvme*; do
        grep -q "traddr=${1%:*},trsvcid=${1#*:}" "$controller/address" && echo "/dev/${controller##*/}"
    done
}
block_of() { head -c 4096 /dev/zero | tr '\0' "$1"; }
# I/O by passthrough on a controller's own device goes to its admin queue; ioctl NVME_IOCTL_IO_CMD goes to its namespace.
write_block() { block_of "$2" >/tmp/send; nvme io-passthru "$1" --opcode=1 --namespace-id=1 --data-len=4096 --write --input-file=/tmp/send --cdw12="$BLOCKS" --timeout=20000 >/tmp/error 2>&1; }
read_block() { nvme io-passthru "$1" --opcode=2 --namespace-id=1 --data-len=4096 --read --raw-binary --cdw12="$BLOCKS" --timeout=20000 >/tmp/block 2>/tmp/error; }
holds() { read_block "$1" && block_of "$2" | cmp -s - /tmp/block; }

refused() {
    local verb
    for verb in "read_block $1" "write_block $1 X"; do
        rm -f /tmp/block
        $verb && fail "$verb was answered by a node that is not the primary"
        grep -qiE 'asymmetric|ANA|path' /tmp/error || fail "$verb: $(</tmp/error)"
        say "$verb: $(</tmp/error)"
    done
}

until_ok 20 nvme_disk >/dev/null
until_ok 20 is_disk "$(nvme_disk)"
BLOCKS=$((4096 / $(blockdev --getss "$(nvme_disk)") - 1))
OLD=$(path_of "$PRIMARY")
until_ok 10 write_block "$OLD" a
holds "$OLD" a || fail "not what was written: $(</tmp/error)"
say "the volume moves"
NEW=$(path_of "$(ask move)")
until_ok 20 holds "$NEW" a
write_block "$NEW" b || fail "the new primary does not write: $(</tmp/error)"
refused "$OLD"
holds "$NEW" b || fail "the new primary lost what it has acknowledged"
say "the primary is cut off from all but its client"
THIRD=$(path_of "$(ask part)")
until_ok 20 write_block "$THIRD" c
refused "$NEW"
until_ok 10 holds "$THIRD" c
ask mend
refused "$NEW"
until_ok 10 holds "$THIRD" c
nvme disconnect -n "$NQN" || fail "disconnect"
until_ok 10 no_nvme_controller
exit 0
