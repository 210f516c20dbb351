# Reservations as nvme-cli and the kernel use them: two hosts on one disk, and then without the node that served it.
# NQN, PORTALS, PRIMARY
. /rig/lib.sh
start_nvme
# A host is its NQN and identifier; native multipath makes one disk of the paths of each.
declare -A ID
for who in one two three; do
    ID[$who]=$(cat /proc/sys/kernel/random/uuid)
    for portal in $PORTALS; do
        # To the kernel itself: nvme-cli takes another host of this machine for one that is connected already.
        echo "transport=tcp,traddr=${portal%:*},trsvcid=${portal#*:},nqn=$NQN,hostnqn=nqn.2014-08.org.nvmexpress:uuid:${ID[$who]},hostid=${ID[$who]},nr_io_queues=2,reconnect_delay=1,ctrl_loss_tmo=-1,keep_alive_tmo=3" >/dev/nvme-fabrics ||
            fail "connect of $who at $portal"
    done
done

# path_of WHO PORTAL: the controller
path_of() {
    local controller
    for controller in /sys/class/nvme/nvme*; do
        grep -q "traddr=${2%:*},trsvcid=${2#*:}" "$controller/address" || continue
        [ "$(<"$controller/hostid")" = "${ID[$1]}" ] && echo "/dev/${controller##*/}" && return 0
    done
    return 1
}

resv() {
    local verb=$1 path=$2
    shift 2
    nvme "resv-$verb" "$path" --namespace-id=1 "$@" >/tmp/said 2>&1 9>&-
    local status=$?
    { echo "resv-$verb $path $*: $status"; cat /tmp/said; } >>/out/nvme_resv
    return $status
}
conflict() { ! "$@" && grep -qi 'reservation conflict' /tmp/said; }
# report PATH TYPE REGISTRANTS
report() {
    resv report "$1" --eds --output-format=json || return 1
    tr -d ' \n' </tmp/said >/tmp/report
    grep -qE "\"rtype\":\"?$2\"?," /tmp/report && grep -qE "\"regctl\":\"?$3\"?," /tmp/report
}
block_of() { head -c 4096 /dev/zero | tr '\0' "$1"; }
write_block() { block_of m >/tmp/send; nvme io-passthru "$1" --opcode=1 --namespace-id=1 --data-len=4096 --write --input-file=/tmp/send --cdw12="$BLOCKS" --timeout=20000 >/tmp/error 2>&1 9>&-; }
read_block() { nvme io-passthru "$1" --opcode=2 --namespace-id=1 --data-len=4096 --read --raw-binary --cdw12="$BLOCKS" --timeout=20000 >/tmp/block 2>/tmp/error 9>&-; }
# may PATH MODE: "rw", "r" or ""
may() {
    local verb want
    for verb in write_block read_block; do
        case ${verb%%_*}:$2 in write:*w* | read:*r*) want=0 ;; *) want=1 ;; esac
        if $verb "$1"; then
            [ $want = 0 ] || { say "$verb $1 is not refused"; return 1; }
        else
            [ $want = 1 ] && grep -qi 'reservation conflict' /tmp/error || { say "$verb $1: $(</tmp/error)"; return 1; }
        fi
    done
}

until_ok 20 nvme_disk >/dev/null
until_ok 20 is_disk "$(nvme_disk)"
BLOCKS=$((4096 / $(blockdev --getss "$(nvme_disk)") - 1))
A=$(path_of one "$PRIMARY") B=$(path_of two "$PRIMARY") C=$(path_of three "$PRIMARY")
[ -n "$A" ] && [ -n "$B" ] && [ -n "$C" ] || fail "a host has no path"
: >/out/nvme_resv
nvme id-ns "$A" --namespace-id=1 | tee /out/id-ns | grep -E 'rescap'

say "registrations"
report "$A" 0 0 || fail "report before anybody registered: $(</tmp/said)"
resv register "$A" --nrkey=0xa --rrega=0 || fail "register: $(</tmp/said)"
resv register "$B" --nrkey=0xb --rrega=0 || fail "register: $(</tmp/said)"
conflict resv register "$A" --crkey=0xc --nrkey=0xd --rrega=2 || fail "replace with a wrong key: $(</tmp/said)"
resv register "$A" --nrkey=0xa1 --rrega=2 --iekey || fail "replace, whatever the key is: $(</tmp/said)"
resv register "$A" --crkey=0xa1 --nrkey=0xa --rrega=2 || fail "replace: $(</tmp/said)"
report "$C" 0 2 || fail "two registrants: $(</tmp/said)"
may "$C" rw || fail "registrations alone bind nobody"

# type, what another registrant may, what a stranger may
while IFS=: read -r number registrant stranger; do
    say "type $number"
    resv acquire "$A" --crkey=0xa --rtype="$number" --racqa=0 || fail "acquire: $(</tmp/said)"
    report "$C" "$number" 2 || fail "report: $(</tmp/said)"
    may "$A" rw || fail "the holder"
    may "$B" "$registrant" || fail "a registrant"
    may "$C" "$stranger" || fail "a stranger"
    conflict resv acquire "$B" --crkey=0xb --rtype=$((number == 1 ? 2 : 1)) --racqa=0 || fail "a second one: $(</tmp/said)"
    conflict resv acquire "$C" --crkey=0xc --rtype="$number" --racqa=0 || fail "of a stranger: $(</tmp/said)"
    resv release "$A" --crkey=0xa --rtype="$number" --rrela=0 || fail "release: $(</tmp/said)"
    report "$C" 0 2 || fail "not released: $(</tmp/said)"
done <<END
1:r:r
2::
3:rw:r
4:rw:
5:rw:r
6:rw:
END

for action in 1 2; do
    say "preempt, action $action"
    resv acquire "$A" --crkey=0xa --rtype=3 --racqa=0 || fail "acquire: $(</tmp/said)"
    resv acquire "$B" --crkey=0xb --prkey=0xa --rtype=4 --racqa=$action || fail "preempt: $(</tmp/said)"
    report "$C" 4 1 || fail "not taken over: $(</tmp/said)"
    may "$A" "" || fail "who was preempted is not kept out"
    may "$B" rw || fail "who preempted is kept out"
    # The notice: log page 80h, registration preempted (1).
    nvme get-log "$A" --log-id=0x80 --log-len=64 --raw-binary 2>/tmp/error 9>&- | head -c 9 | tail -c 1 | od -An -tu1 | grep -qw 1 ||
        fail "who was preempted was not told: $(</tmp/error)"
    resv release "$B" --crkey=0xb --rtype=4 --rrela=0 || fail "release: $(</tmp/said)"
    resv register "$A" --nrkey=0xa --rrega=0 || fail "register again: $(</tmp/said)"
done

say "clear"
resv acquire "$A" --crkey=0xa --rtype=2 --racqa=0 || fail "acquire: $(</tmp/said)"
resv release "$B" --crkey=0xb --rrela=1 || fail "clear: $(</tmp/said)"
report "$C" 0 0 || fail "something is left: $(</tmp/said)"
may "$C" rw || fail "a reservation is left"

say "the node that serves is killed"
resv register "$A" --nrkey=0xa --rrega=0 --cptpl=3 || fail "register: $(</tmp/said)"
resv acquire "$A" --crkey=0xa --rtype=3 --racqa=0 || fail "acquire: $(</tmp/said)"
NEW=$(ask strike)
A=$(path_of one "$NEW") B=$(path_of two "$NEW")
served() { resv report "$B" --eds; }
until_ok 20 served
report "$B" 3 1 || fail "the reservation is lost: $(</tmp/said)"
# The host is the registrant, over whichever path: nobody registers anew.
may "$A" rw || fail "the holder does not write"
may "$B" r || fail "who is no registrant writes"
resv register "$B" --nrkey=0xb --rrega=0 || fail "register: $(</tmp/said)"
resv acquire "$B" --crkey=0xb --prkey=0xa --rtype=3 --racqa=1 || fail "preempt: $(</tmp/said)"
may "$A" r || fail "who was preempted writes"
ask mend
may "$A" r || fail "who was preempted writes"
resv release "$B" --crkey=0xb --rrela=1 || fail "clear: $(</tmp/said)"
nvme disconnect -n "$NQN" >/dev/null || fail "disconnect"
until_ok 20 no_nvme_controller
exit 0
