# Find, connect, use, let go: the kernel's NVMe/TCP host on one path. NQN, ADDRESS, PORT
. /rig/lib.sh
start_nvme
say "discovery"
nvme discover -t tcp -a "$ADDRESS" -s "$PORT" >/out/discovery || fail "discovery"
grep -E '^(subnqn|traddr|trsvcid):' /out/discovery | sort -u
grep -q "subnqn: *$NQN" /out/discovery || fail "$NQN is not listed"
nvme connect -t tcp -a "$ADDRESS" -s "$PORT" -n nqn.2026-01.io.sparrow:none 2>/tmp/refusal && fail "a subsystem that is not there was given"
dmesg --clear # of the refusal
nvme_connect "$ADDRESS:$PORT" --nr-io-queues=2 || fail "connect"
until_ok 20 nvme_disk >/dev/null
DISK=$(nvme_disk)
until_ok 20 is_disk "$DISK"
say "$DISK: $(blockdev --getsize64 "$DISK") bytes"
nvme list-subsys | tee /out/subsystems
nvme id-ctrl /dev/nvme0 | grep -E '^(mn|sn|cmic|oncs|anacap|kas|vwc) '
file_systems "$DISK"
fio_verify "$DISK" 24
say "digests"
nvme disconnect -n "$NQN" || fail "disconnect"
until_ok 10 no_nvme_controller
nvme_connect "$ADDRESS:$PORT" --nr-io-queues=2 --hdr-digest --data-digest || fail "connect with digests"
until_ok 20 nvme_disk >/dev/null
DISK=$(nvme_disk)
until_ok 20 is_disk "$DISK"
fio_verify "$DISK" 8
nvme disconnect -n "$NQN" || fail "disconnect"
until_ok 10 no_nvme_controller
dmesg | grep -E 'I/O error|Buffer I/O|timeout|failed to|digest error' && fail "the kernel complains"
exit 0
