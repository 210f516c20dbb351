# A file system and a database on three paths while the primary's node is killed again and again. TARGET, PORTALS, KILLS
. /rig/lib.sh
start_udev
start_multipath
start_iscsi
for portal in $PORTALS; do
    iscsiadm -m discovery -t sendtargets -p "$portal" >/dev/null || fail "discovery at $portal"
    iscsiadm -m node -T "$TARGET" -p "$portal" --login >/dev/null || fail "login at $portal"
done
until_ok 60 multipath_disk 3 >/dev/null
DISK=$(multipath_disk 3)
paths() { [ "$(dmsetup status --target multipath | grep -oE ' A [0-9]+ ' | wc -l)" -ge 3 ]; }
until_ok 60 paths
multipath -ll | tee /out/paths
. /rig/work.sh
under_work "$DISK" "$KILLS" paths
multipath -ll
multipath -F
for portal in $PORTALS; do
    iscsiadm -m node -T "$TARGET" -p "$portal" --logout >/dev/null || fail "logout at $portal"
done
until_ok 60 no_iscsi_session
exit 0
