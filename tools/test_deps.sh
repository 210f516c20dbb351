#!/bin/sh
# Programs that tests and measurements talk to.
#
#   tools/test_deps.sh try     install what is missing if apt may; tests name what they skip otherwise
#   tools/test_deps.sh must    the same, and fail when something is missing afterwards
#   tools/test_deps.sh bench   `must`, and the peers of `make bench`
#   tools/test_deps.sh ceph    `bench`, and a Ceph cluster for `make bench-ceph`
set -eu
cd "$(dirname "$0")/.."
mode=${1:-must}

# program -> package; one per line.
wanted='qemu-img qemu-utils
iscsi-ls libiscsi-bin
fio fio
nbdinfo libnbd-bin
nft nftables
valgrind valgrind'
measures() { [ "$mode" = bench ] || [ "$mode" = ceph ]; }
measures && wanted="$wanted
nbdkit nbdkit
qemu-storage-daemon qemu-system-common
gcc gcc
tgtd tgt"
# fio's rbd engine comes with fio.
[ "$mode" != ceph ] || wanted="$wanted
ceph-mon ceph-mon
ceph-mgr ceph-mgr
ceph-osd ceph-osd
rbd ceph-common"

# qemu-img talks iSCSI only with this module.
has_block_iscsi() { qemu-img --help 2>/dev/null | grep -q 'Supported formats:.* iscsi'; }

# The load generator of `make bench` is compiled against it.
has_libiscsi() { [ -e /usr/include/iscsi/iscsi.h ]; }

missing_packages() {
    printf '%s\n' "$wanted" | while read -r program package; do
        PATH="$PATH:/usr/sbin" command -v "$program" >/dev/null || printf '%s ' "$package"
    done
    has_block_iscsi || printf 'qemu-block-extra '
    ! measures || has_libiscsi || printf 'libiscsi-dev '
}

# `tools/test_deps.sh guest`: `must`, and what `make guest` builds and boots its guest with.
[ "$mode" != guest ] || wanted="$wanted
qemu-system-x86_64 qemu-system-x86
mmdebstrap mmdebstrap
busybox busybox-static
mke2fs e2fsprogs
modprobe kmod
strip binutils
cpio cpio
zstd zstd
ip iproute2
ss iproute2"

missing=$(missing_packages)
[ -n "$missing" ] || exit 0
had_tgt=$(PATH="$PATH:/usr/sbin" command -v tgtd || true)
# shellcheck disable=SC2086 # a list of packages
tools/apt_install.sh $missing || true
if measures && [ -z "$had_tgt" ] && command -v systemctl >/dev/null; then
    # The package starts a target on port 3260; measurements start their own.
    systemctl disable --now tgt >/dev/null 2>&1 || true
fi
missing=$(missing_packages)
if [ -n "$missing" ] && [ "$mode" != try ]; then
    echo "missing: ${missing% } - install them (sudo apt-get install -y ${missing% }) and run this again" >&2
    exit 1
fi
