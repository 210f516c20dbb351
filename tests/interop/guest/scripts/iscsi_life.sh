# Find, connect, use, let go: the kernel's initiator on one path. TARGET, PORTAL
. /rig/lib.sh
start_iscsi
say "discovery"
iscsiadm -m discovery -t sendtargets -p "$PORTAL" || fail "discovery"
iscsiadm -m discovery -t sendtargets -p "$PORTAL" | grep -q "$TARGET" || fail "$TARGET is not listed"
iscsiadm -m node -T "$TARGET" -p "$PORTAL" --login || fail "login"
until_ok 20 iscsi_disk "$PORTAL" >/dev/null
DISK=$(iscsi_disk "$PORTAL")
until_ok 20 is_disk "$DISK"
say "$DISK: $(blockdev --getsize64 "$DISK") bytes, $(sg_inq "$DISK" | grep -E 'identification' | tr -s ' \n' ' ')"
file_systems "$DISK"
fio_verify "$DISK" 24
say "logout"
iscsiadm -m node -T "$TARGET" -p "$PORTAL" --logout || fail "logout"
until_ok 10 no_iscsi_session
[ -e "$DISK" ] && fail "$DISK is still there"
# A new session is told of a power-on (SAM-5, 5.14), which the kernel notes for every disk; any other reset is one too many.
dmesg | grep -v 'Power-on or device reset occurred' | grep -E 'I/O error|Buffer I/O|reset|timing out' &&
    fail "the kernel complains"
exit 0
