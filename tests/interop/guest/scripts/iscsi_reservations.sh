# Persistent reservations as the kernel and sg_persist use them: three initiators on one disk, and then without the node
# that served it. TARGET, PORTALS, PRIMARY
. /rig/lib.sh
start_iscsi

# An initiator of its own is an interface with a name of its own; open-iscsi gives every session an ISID of its own.
for who in one two three; do
    iscsiadm -m iface -I "$who" --op new >/dev/null && iscsiadm -m iface -I "$who" --op update -n iface.transport_name -v tcp >/dev/null &&
        iscsiadm -m iface -I "$who" --op update -n iface.initiatorname -v "iqn.2026-01.test:$who" >/dev/null ||
        fail "interface $who"
    for portal in $PORTALS; do
        iscsiadm -m discovery -t sendtargets -I "$who" -p "$portal" >/dev/null || fail "discovery of $who at $portal"
        iscsiadm -m node -T "$TARGET" -I "$who" -p "$portal" --login >/dev/null || fail "login of $who at $portal"
    done
done

# disk_of WHO PORTAL
disk_of() {
    local session path
    for session in /sys/class/iscsi_session/session*; do
        [ "$(<"$session/ifacename")" = "$1" ] || continue
        path=$(echo "$session"/device/connection*/iscsi_connection/connection*)
        [ "$(<"$path/persistent_address"):$(<"$path/persistent_port")" = "$2" ] || continue
        path=$(echo "$session"/device/target*/*/block/sd*)
        [ -e "$path" ] && echo "/dev/${path##*/}" && return 0
    done
    return 1
}

# A unit attention stands before the answer; what came with it was not carried out. 6: sg_persist's word for one.
pr() {
    local disk=$1 status=0
    shift
    for _ in 1 2 3 4; do
        sg_persist --no-inquiry "$@" "$disk" >/tmp/said 2>&1 9>&-
        status=$?
        cat /tmp/said >>/out/sg_persist
        [ $status = 6 ] || return $status
    done
    return $status
}
out() { local disk=$1; shift; pr "$disk" --out "$@"; }
conflict() { "$@"; [ $? = 24 ]; }
# keys DISK KEY...: these are registered, in any order
keys() {
    local disk=$1
    shift
    pr "$disk" --in --read-keys || return 1
    [ "$(grep -oE '^ +0x[0-9a-f]+' /tmp/said | tr -d ' ' | sort | tr '\n' ' ')" = "$(printf '%s ' "$@" | tr ' ' '\n' | grep . | sort | tr '\n' ' ')" ]
}
# held DISK KEY TYPE-IN-WORDS
held() {
    pr "$1" --in --read-reservation && grep -q "Key=$2" /tmp/said && grep -q "type: $3\$" /tmp/said
}
free() { pr "$1" --in --read-reservation && grep -qi 'NO reservation held' /tmp/said; }

block_of() { head -c 4096 /dev/zero | tr '\0' "$1"; }
write_block() { sg_raw --timeout=20 --send=4096 --infile=<(block_of "$2") "$1" 2a 00 00 00 00 00 00 00 "$BLOCKS" 00 2>/tmp/sense 9>&-; }
read_block() { sg_raw --timeout=20 --request=4096 --outfile=/tmp/block "$1" 28 00 00 00 00 00 00 00 "$BLOCKS" 00 2>/tmp/sense 9>&-; }
# may DISK MODE: "rw", "r" or "": what a reservation leaves to this path
may() {
    local verb status
    for verb in "write_block $1 m" "read_block $1"; do
        for _ in 1 2 3 4; do
            $verb
            status=$?
            [ $status = 6 ] || break
        done
        case ${verb%%_*}:$2 in
        write:*w* | read:*r*) [ $status = 0 ] && continue ;;
        *) [ $status != 0 ] && grep -qi 'reservation conflict' /tmp/sense && continue ;;
        esac
        say "$verb, which may \"$2\": $status $(tr -s ' \n' ' ' </tmp/sense)"
        return 1
    done
}
# hears DISK ASCQ: the next command is told of this event of reservations
hears() { sg_turs -v "$1" >/tmp/said 2>&1 9>&-; grep -qiE "$2" /tmp/said; }

for who in one two three; do
    until_ok 20 disk_of $who "$PRIMARY" >/dev/null
    until_ok 20 is_disk "$(disk_of $who "$PRIMARY")"
done
A=$(disk_of one "$PRIMARY") B=$(disk_of two "$PRIMARY") C=$(disk_of three "$PRIMARY")
BLOCKS=$(printf %02x $((4096 / $(blockdev --getss "$A"))))
: >/out/sg_persist

say "capabilities and registrations"
pr "$A" --in --report-capabilities || fail "report capabilities: $(</tmp/said)"
keys "$A" || fail "keys before anybody registered: $(</tmp/said)"
out "$A" --register --param-sark=0xa || fail "register: $(</tmp/said)"
out "$B" --register --param-sark=0xb || fail "register: $(</tmp/said)"
conflict out "$A" --register --param-rk=0xc --param-sark=0xd || fail "another key than the registered one: $(</tmp/said)"
out "$A" --register-ignore --param-sark=0xa1 || fail "register and ignore: $(</tmp/said)"
out "$A" --register --param-rk=0xa1 --param-sark=0xa || fail "another key: $(</tmp/said)"
keys "$A" 0xa 0xb || fail "keys: $(</tmp/said)"
keys "$C" 0xa 0xb || fail "keys, as a stranger reads them: $(</tmp/said)"
may "$C" rw || fail "registrations alone bind nobody"

# type of sg_persist, its words, what another registrant may, what a stranger may
while IFS=: read -r number words registrant stranger; do
    say "$words"
    out "$A" --reserve --param-rk=0xa --prout-type="$number" || fail "reserve: $(</tmp/said)"
    case $number in 7 | 8) key=0x0 ;; *) key=0xa ;; esac
    held "$B" $key "$words" || fail "read reservation: $(</tmp/said)"
    pr "$C" --in --read-full-status || fail "full status: $(</tmp/said)"
    for name in one two; do
        grep -q "iqn.2026-01.test:$name" /tmp/said || fail "full status without $name: $(</tmp/said)"
    done
    grep -qE 'iqn.2026-01.test:three' /tmp/said && fail "full status with a stranger: $(</tmp/said)"
    may "$A" rw || fail "the holder"
    may "$B" "$registrant" || fail "a registrant"
    may "$C" "$stranger" || fail "a stranger"
    conflict out "$B" --reserve --param-rk=0xb --prout-type=$((number == 1 ? 3 : 1)) || fail "a second reservation: $(</tmp/said)"
    conflict out "$C" --reserve --param-rk=0xc --prout-type="$number" || fail "a reservation of a stranger: $(</tmp/said)"
    out "$A" --release --param-rk=0xa --prout-type="$number" || fail "release: $(</tmp/said)"
    free "$C" || fail "not released: $(</tmp/said)"
done <<END
1:Write Exclusive:r:r
3:Exclusive Access::
5:Write Exclusive, registrants only:rw:r
6:Exclusive Access, registrants only:rw:
7:Write Exclusive, all registrants:rw:r
8:Exclusive Access, all registrants:rw:
END

for verb in --preempt --preempt-abort; do
    say "$verb"
    out "$A" --reserve --param-rk=0xa --prout-type=5 || fail "reserve: $(</tmp/said)"
    out "$B" $verb --param-rk=0xb --param-sark=0xa --prout-type=6 || fail "$verb: $(</tmp/said)"
    hears "$A" 'registrations preempted' || fail "who was preempted heard: $(</tmp/said)"
    keys "$A" 0xb || fail "keys: $(</tmp/said)"
    held "$C" 0xb "Exclusive Access, registrants only" || fail "not taken over: $(</tmp/said)"
    may "$A" "" || fail "who was preempted is not kept out"
    may "$B" rw || fail "who preempted is kept out"
    # Through the kernel's own block layer too.
    dd if="$A" of=/dev/null bs=4096 count=1 iflag=direct 2>/tmp/said && fail "the kernel reads what it may not"
    dd if=/dev/zero of="$A" bs=4096 count=1 oflag=direct 2>/tmp/said && fail "the kernel writes what it may not"
    out "$B" --release --param-rk=0xb --prout-type=6 || fail "release: $(</tmp/said)"
    out "$A" --register --param-sark=0xa || fail "register again: $(</tmp/said)"
done

say "clear"
out "$A" --reserve --param-rk=0xa --prout-type=3 || fail "reserve: $(</tmp/said)"
conflict out "$B" --clear --param-rk=0xa || fail "clear with somebody else's key: $(</tmp/said)"
out "$B" --clear --param-rk=0xb || fail "clear: $(</tmp/said)"
hears "$A" 'reservations preempted' || fail "whose reservation was cleared heard: $(</tmp/said)"
keys "$C" || fail "keys are left: $(</tmp/said)"
free "$C" || fail "a reservation is left: $(</tmp/said)"
may "$C" rw || fail "a reservation is left"

say "RESERVE(6)"
sg_raw "$A" 16 00 00 00 00 00 2>/tmp/sense 9>&- || fail "reserve: $(</tmp/sense)"
may "$B" "" || fail "RESERVE(6) keeps nobody out"
may "$A" rw || fail "RESERVE(6) keeps its holder out"
iscsiadm -m node -T "$TARGET" -I one -p "$PRIMARY" --logout >/dev/null || fail "logout"
until_ok 10 may "$B" rw
iscsiadm -m node -T "$TARGET" -I one -p "$PRIMARY" --login >/dev/null || fail "login"
until_ok 20 disk_of one "$PRIMARY" >/dev/null
A=$(disk_of one "$PRIMARY")
until_ok 20 is_disk "$A"

say "the node that serves is killed"
out "$A" --register --param-sark=0xa --param-aptpl || fail "register: $(</tmp/said)"
out "$A" --reserve --param-rk=0xa --prout-type=5 || fail "reserve: $(</tmp/said)"
NEW=$(ask strike)
A=$(disk_of one "$NEW") B=$(disk_of two "$NEW")
until_ok 20 keys "$B" 0xa
held "$B" 0xa "Write Exclusive, registrants only" || fail "the reservation is lost: $(</tmp/said)"
may "$B" r || fail "who is no registrant writes"
# Another session, so another ISID: it registers too, and then may write.
may "$A" r || fail "a path that is not registered writes"
out "$A" --register --param-sark=0xa || fail "register: $(</tmp/said)"
may "$A" rw || fail "a registrant does not write"
keys "$B" 0xa 0xa || fail "keys: $(</tmp/said)"
out "$B" --register --param-sark=0xb || fail "register: $(</tmp/said)"
out "$B" --preempt --param-rk=0xb --param-sark=0xa --prout-type=5 || fail "preempt: $(</tmp/said)"
held "$A" 0xb "Write Exclusive, registrants only" || fail "not taken over: $(</tmp/said)"
may "$A" r || fail "who was preempted writes"
ask mend
may "$A" r || fail "who was preempted writes"
out "$B" --clear --param-rk=0xb || fail "clear: $(</tmp/said)"
iscsiadm -m node -T "$TARGET" --logout >/dev/null || fail "logout"
until_ok 20 no_iscsi_session
exit 0
