# A file system and a database on three paths while the primary's node is killed again and again. NQN, PORTALS, KILLS
. /rig/lib.sh
. /rig/work.sh
start_nvme
[ "$(</sys/module/nvme_core/parameters/multipath)" = Y ] || fail "the kernel does not put NVMe paths together"
for portal in $PORTALS; do
    nvme_connect "$portal" --nr-io-queues=2 || fail "connect at $portal"
done
until_ok 60 nvme_disk >/dev/null
DISK=$(nvme_disk)
until_ok 60 is_disk "$DISK"
states() { cat /sys/class/nvme/nvme*/nvme*c*n*/ana_state 2>/dev/null | sort | uniq -c | tr -s ' \n' ' '; }
paths() { [ "$(states)" = " 2 inaccessible 1 optimized " ]; }
until_ok 60 paths
nvme list-subsys | tee /out/paths
under_work "$DISK" "$KILLS" paths
nvme list-subsys
nvme disconnect -n "$NQN" || fail "disconnect"
until_ok 60 no_nvme_controller
exit 0
