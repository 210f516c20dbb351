# Blocks asked of a node that was the primary: refused, whatever the rest of the cluster does. TARGET, PORTALS, PRIMARY
. /rig/lib.sh
start_iscsi
for portal in $PORTALS; do
    iscsiadm -m discovery -t sendtargets -p "$portal" >/dev/null || fail "discovery at $portal"
    iscsiadm -m node -T "$TARGET" -p "$portal" --login >/dev/null || fail "login at $portal"
    until_ok 20 iscsi_disk "$portal" >/dev/null
done

# Commands of our own making, so that neither the page cache nor a retry of the kernel's stands between.
# block_of LETTER: 4096 bytes of it
block_of() { head -c 4096 /dev/zero | tr '\0' "$1"; }
write_block() { sg_raw --timeout=20 --send=4096 --infile=<(block_of "$2") "$1" 2a 00 00 00 00 00 00 00 "$BLOCKS" 00 2>/tmp/sense; }
read_block() { sg_raw --timeout=20 --request=4096 --outfile=/tmp/block "$1" 28 00 00 00 00 00 00 00 "$BLOCKS" 00 2>/tmp/sense; }
holds() { read_block "$1" && block_of "$2" | cmp -s - /tmp/block; }

# A unit attention stands before the answer, once for each change of state; what came with it was not carried out.
answered() {
    for _ in 1 2 3 4; do
        rm -f /tmp/block
        "$@" && return 0
        grep -q 'Unit Attention' /tmp/sense || return 1
    done
    return 1
}

refused() {
    local verb
    for verb in "read_block $1" "write_block $1 X"; do
        answered $verb && fail "$verb was answered by a node that is not the primary"
        grep -q 'Not Ready' /tmp/sense || fail "$verb: $(cat /tmp/sense)"
        [ -s /tmp/block ] && fail "$verb brought data"
        say "$verb: $(grep -iE 'asc|logical unit|sense' /tmp/sense | tr -s ' \n' ' ')"
    done
}

OLD=$(iscsi_disk "$PRIMARY")
is_disk "$OLD" || fail "no disk on the primary's path"
BLOCKS=$(printf %02x $((4096 / $(blockdev --getss "$OLD"))))
until_ok 10 write_block "$OLD" a
holds "$OLD" a || fail "not what was written"
say "the volume moves"
NEW=$(iscsi_disk "$(ask move)")
until_ok 20 holds "$NEW" a
write_block "$NEW" b || fail "the new primary does not write: $(cat /tmp/sense)"
refused "$OLD"
holds "$NEW" b || fail "the new primary lost what it has acknowledged"
say "the primary is cut off from all but its client"
THIRD=$(iscsi_disk "$(ask part)")
until_ok 20 write_block "$THIRD" c
refused "$NEW"
until_ok 10 holds "$THIRD" c
ask mend
refused "$NEW"
until_ok 10 holds "$THIRD" c
for portal in $PORTALS; do
    iscsiadm -m node -T "$TARGET" -p "$portal" --logout >/dev/null || fail "logout at $portal"
done
until_ok 10 no_iscsi_session
exit 0
