# Find, connect, use, let go: the kernel's NBD client. EXPORT, PORTAL (the primary's), OTHERS, CONNECTIONS
. /rig/lib.sh
modprobe nbd nbds_max=2 max_part=0
gone() { [ ! -e /sys/block/nbd0/pid ]; }
for other in $OTHERS; do
    nbd_connect "$other" /dev/nbd1 >/tmp/refusal 2>&1 && fail "$other serves and is not the primary"
    say "$other: $(tail -n 1 /tmp/refusal)"
done
nbd-client "${PORTAL%:*}" "${PORTAL#*:}" /dev/nbd1 -N "$EXPORT" >/tmp/refusal 2>&1 && fail "let in without TLS"
say "without TLS: $(tail -n 1 /tmp/refusal)"
nbd_connect "$PORTAL" /dev/nbd0 -C "$CONNECTIONS" || fail "connect"
until_ok 20 is_disk /dev/nbd0
say "$(blockdev --getsize64 /dev/nbd0) bytes, $(ask connections) connections," \
    "discard $(</sys/block/nbd0/queue/discard_max_bytes), cache $(</sys/block/nbd0/queue/write_cache)"
[ "$(</sys/block/nbd0/queue/discard_max_bytes)" -gt 0 ] || fail "the kernel does not know that it may trim"
file_systems /dev/nbd0
fio_verify /dev/nbd0 8
say "disconnect"
nbd-client -d /dev/nbd0 || fail "disconnect"
until_ok 10 gone
dmesg | grep -E 'I/O error|Buffer I/O|timed out' && fail "the kernel complains"
exit 0
