# mpathpersist on dm-multipath: it registers on every path, and all but one do not serve. Another host has paths of its own.
# TARGET, PORTALS, PRIMARY
. /rig/lib.sh
start_udev
start_iscsi

# The other host is an interface with a name of its own. Its disks are this machine's too, so multipathd has to be told
# that they are not its business: by the names they got, which come first.
iscsiadm -m iface -I other --op new >/dev/null && iscsiadm -m iface -I other --op update -n iface.transport_name -v tcp >/dev/null &&
    iscsiadm -m iface -I other --op update -n iface.initiatorname -v "iqn.2026-01.test:other" >/dev/null || fail "interface"
# One discovery tells of all portals; only new records, for others may be in use.
login() {
    local portal
    iscsiadm -m discovery -t sendtargets -o new -I "$1" -p "$PRIMARY" >/dev/null || fail "discovery of $1"
    for portal in $PORTALS; do
        iscsiadm -m node -T "$TARGET" -I "$1" -p "$portal" --login >/dev/null || fail "login of $1 at $portal"
    done
}
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
login other
OTHERS=
for portal in $PORTALS; do
    until_ok 20 disk_of other "$portal" >/dev/null
    OTHERS="$OTHERS $(disk_of other "$portal")"
done
names=${OTHERS//\/dev\//}
names=${names# }
modprobe -a dm_mod dm_multipath dm_service_time scsi_dh_alua
mkdir -p /etc/multipath
# mpathpersist keeps the key of each volume, so that multipathd can register a path that comes later.
sed "s/^defaults {/&\n    reservation_key file/; s/^blacklist {/&\n    devnode \"^(${names// /|})\$\"/" \
    /rig/initiator/multipath.conf >/etc/multipath.conf
multipathd
login default
until_ok 60 multipath_disk 3 >/dev/null
DISK=$(multipath_disk 3)
paths() { [ "$(dmsetup status --target multipath | grep -oE ' A [0-9]+ ' | wc -l)" -ge 3 ]; }
until_ok 30 paths
multipath -ll | tee /out/paths
BLOCKS=$(printf %02x $((4096 / $(blockdev --getss "$DISK"))))
: >/out/said

mp() {
    mpathpersist "$@" "$DISK" >/tmp/said 2>&1 9>&-
    local status=$?
    { echo "mpathpersist $*: $status"; cat /tmp/said; } >>/out/said
    return $status
}
# A unit attention stands before the answer; what came with it was not carried out. 6: sg_persist's word for one.
pr() {
    local disk=$1 status=0
    shift
    for _ in 1 2 3 4 5 6; do
        sg_persist --no-inquiry "$@" "$disk" >/tmp/said 2>&1 9>&-
        status=$?
        { echo "sg_persist $* $disk: $status"; cat /tmp/said; } >>/out/said
        [ $status = 6 ] || return $status
    done
    return $status
}
conflict() { "$@"; [ $? = 24 ]; }
# keys DISK KEY...: these are registered, in any order
keys() {
    local disk=$1
    shift
    pr "$disk" --in --read-keys || return 1
    [ "$(grep -oE '^ +0x[0-9a-f]+' /tmp/said | tr -d ' ' | sort | tr '\n' ' ')" = "$(printf '%s ' "$@" | tr ' ' '\n' | grep . | sort | tr '\n' ' ')" ]
}
# everywhere KEY...: every path of the other host tells the same
everywhere() {
    local disk
    for disk in $OTHERS; do
        keys "$disk" "$@" || return 1
    done
}
held() { pr "$1" --in --read-reservation && grep -q "Key=$2" /tmp/said; }
writes() { dd if=/dev/zero of="$DISK" bs=4096 count=1 oflag=direct 2>/tmp/dd 9>&-; }
# The other host, on its path to the node that serves: other_may MODE ("rw" or "r")
other_may() {
    local disk verb status
    disk=$(disk_of other "$SERVING") || return 1
    for verb in "--send=4096 --infile=/tmp/block $disk 2a" "--request=4096 --outfile=/tmp/read $disk 28"; do
        for _ in 1 2 3 4 5 6; do
            # shellcheck disable=SC2086 # options, the disk and the operation code
            sg_raw --timeout=20 $verb 00 00 00 00 00 00 00 "$BLOCKS" 00 2>/tmp/sense 9>&-
            status=$?
            [ $status = 6 ] || break
        done
        case ${verb%%=*}:$1 in
        --send:*w* | --request:*r*) [ $status = 0 ] && continue ;;
        *) [ $status != 0 ] && grep -qi 'reservation conflict' /tmp/sense && continue ;;
        esac
        say "$verb, which may \"$1\": $status $(tr -s ' \n' ' ' </tmp/sense)"
        return 1
    done
}
head -c 4096 /dev/zero >/tmp/block
SERVING=$PRIMARY

say "register on every path"
mp --out --register --param-sark=0xa || fail "register: $(</tmp/said)"
everywhere 0xa 0xa 0xa || fail "one registration a path: $(</tmp/said)"
mp --in --read-keys || fail "read keys: $(</tmp/said)"
grep -qi '0xa' /tmp/said || fail "read keys: $(</tmp/said)"
pr "${OTHERS##* }" --in --read-full-status || fail "full status: $(</tmp/said)"
[ "$(grep -oE 'iqn.2026-01.test:guest,i,0x[0-9a-f]+' /tmp/said | sort -u | wc -l)" = 3 ] || fail "full status: $(</tmp/said)"

say "reserve"
mp --out --reserve --param-rk=0xa --prout-type=5 || fail "reserve: $(</tmp/said)"
for disk in $OTHERS; do
    held "$disk" 0xa || fail "not held, by $disk: $(</tmp/said)"
    conflict pr "$disk" --out --reserve --param-rk=0xb --prout-type=3 || fail "a stranger reserves by $disk: $(</tmp/said)"
done
writes || fail "the holder does not write: $(</tmp/dd)"
other_may r || fail "a stranger"

say "the node that serves is killed"
SERVING=$(ask strike)
writes || fail "the holder does not write after the failover: $(</tmp/dd)"
until_ok 20 other_may r
held "$(disk_of other "$SERVING")" 0xa || fail "the reservation is lost: $(</tmp/said)"
ask mend
until_ok 60 paths
everywhere 0xa 0xa 0xa || fail "keys after the failover: $(</tmp/said)"

say "the other host preempts, by a path that does not serve"
for disk in $OTHERS; do
    pr "$disk" --out --register --param-sark=0xb || fail "register by $disk: $(</tmp/said)"
    [ "$disk" = "$(disk_of other "$SERVING")" ] || LAME=$disk
done
pr "$LAME" --out --preempt-abort --param-rk=0xb --param-sark=0xa --prout-type=5 || fail "preempt: $(</tmp/said)"
everywhere 0xb 0xb 0xb || fail "keys: $(</tmp/said)"
other_may rw || fail "who preempted is kept out"
writes && fail "who was preempted writes"
grep -qiE 'invalid exchange|input/output' /tmp/dd || fail "another error: $(</tmp/dd)"
mp --out --reserve --param-rk=0xa --prout-type=5 && fail "who was preempted reserves: $(</tmp/said)"

say "back again"
mp --out --register-ignore --param-sark=0xa || fail "register again: $(</tmp/said)"
everywhere 0xa 0xa 0xa 0xb 0xb 0xb || fail "keys: $(</tmp/said)"
writes || fail "a registrant does not write: $(</tmp/dd)"
mp --out --preempt --param-rk=0xa --param-sark=0xb --prout-type=5 || fail "preempt: $(</tmp/said)"
everywhere 0xa 0xa 0xa || fail "keys: $(</tmp/said)"
held "$LAME" 0xa || fail "not taken over: $(</tmp/said)"
other_may r || fail "who was preempted writes"
mp --out --release --param-rk=0xa --prout-type=5 || fail "release: $(</tmp/said)"
other_may rw || fail "not released"
mp --out --register --param-rk=0xa --param-sark=0x0 || fail "unregister: $(</tmp/said)"
everywhere || fail "keys are left: $(</tmp/said)"

multipath -F
iscsiadm -m node -T "$TARGET" --logout >/dev/null || fail "logout"
until_ok 20 no_iscsi_session
exit 0
