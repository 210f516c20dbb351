# Blocks asked of a node that was the primary: refused. EXPORT, PRIMARY
. /rig/lib.sh
modprobe nbd nbds_max=4 max_part=0
block_of() { head -c 4096 /dev/zero | tr '\0' "$1"; }
write_block() { block_of "$2" | timeout 30 dd of="$1" bs=4096 count=1 oflag=direct status=none 2>/tmp/error; }
read_block() { timeout 30 dd if="$1" of=/tmp/block bs=4096 count=1 iflag=direct status=none 2>/tmp/error; }
holds() { read_block "$1" && block_of "$2" | cmp -s - /tmp/block; }
attach() { nbd_connect "$2" "$1" >/tmp/attach 2>&1 && until_ok 10 is_disk "$1"; }

refused() {
    local verb
    for verb in "read_block $1" "write_block $1 X"; do
        rm -f /tmp/block
        $verb && fail "$verb was answered by a node that is not the primary"
        [ -s /tmp/block ] && fail "$verb brought data"
        say "$verb: $(</tmp/error)"
    done
}

attach /dev/nbd0 "$PRIMARY" || fail "connect: $(</tmp/attach)"
write_block /dev/nbd0 a || fail "write: $(</tmp/error)"
holds /dev/nbd0 a || fail "not what was written"
say "the volume moves"
NEW=$(ask move)
until_ok 20 attach /dev/nbd1 "$NEW"
until_ok 20 holds /dev/nbd1 a
write_block /dev/nbd1 b || fail "the new primary does not write: $(</tmp/error)"
refused /dev/nbd0
holds /dev/nbd1 b || fail "the new primary lost what it has acknowledged"
say "the primary is cut off from all but its client"
THIRD=$(ask part)
until_ok 20 attach /dev/nbd2 "$THIRD"
until_ok 20 write_block /dev/nbd2 c
refused /dev/nbd1
until_ok 10 holds /dev/nbd2 c
ask mend
until_ok 10 holds /dev/nbd2 c
for disk in 0 1 2; do nbd-client -d /dev/nbd$disk; done
exit 0
