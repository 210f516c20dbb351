"""Rings: made, described, closed; and a clear error where the kernel says no."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sparrow.base.ids import NodeId
from sparrow.node.pool import Pool
from tests.support.needs import needs_io_uring

NOT_BUILT = "the native core is not built (make native)"
ring = pytest.importorskip("sparrow.dataplane.ring", reason=NOT_BUILT)
machine = pytest.importorskip("sparrow.dataplane.machine", reason=NOT_BUILT)

# Answers io_uring_setup(2) with the errno given as the first argument; seccomp(2), classic BPF.
REFUSE = """
import ctypes, platform, struct, sys
number = int(sys.argv[1])
SETUP = 425  # io_uring_setup has one number on every architecture
steps = [
    (0x20, 0, 0, 0),                       # load the system call's number
    (0x15, 0, 1, SETUP),                   # is it io_uring_setup?
    (0x06, 0, 0, 0x00050000 | number),     # yes: SECCOMP_RET_ERRNO
    (0x06, 0, 0, 0x7FFF0000),              # no: SECCOMP_RET_ALLOW
]
code = b"".join(struct.pack("HBBI", *step) for step in steps)
buffer = ctypes.create_string_buffer(code, len(code))
program = struct.pack("HxxxxxxP", len(steps), ctypes.addressof(buffer))
prctl = ctypes.CDLL(None, use_errno=True).prctl
assert prctl(38, 1, 0, 0, 0) == 0          # PR_SET_NO_NEW_PRIVS
assert prctl(22, 2, program, 0, 0) == 0    # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
from sparrow.dataplane import ring
try:
    ring.probe()
except ring.RingUnavailable as error:
    print(error.code, error.sentence())
"""


@needs_io_uring()
def test_probe_says_what_the_kernel_offers() -> None:
    support = ring.probe()
    assert support.missing == ()
    assert ring.REQUIRED_FEATURES <= support.features
    assert {"READ", "WRITE", "SEND", "RECV"} <= support.operations


@needs_io_uring()
def test_a_ring_has_an_address_until_it_is_closed() -> None:
    owned = ring.create_ring(64, completions=1024)
    before = set(Path("/proc/self/fd").iterdir())
    assert owned.address != 0
    owned.close()
    assert len(set(Path("/proc/self/fd").iterdir())) == len(before) - 1
    assert owned.closed
    owned.close()
    with pytest.raises(ValueError, match="closed"):
        _ = owned.address


@needs_io_uring()
def test_a_file_stays_open_and_locked_until_the_ring_is_gone(tmp_path: Path) -> None:
    owned = ring.create_ring(8)
    locked = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    owned.keep_open([locked])
    os.close(locked)
    other = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    owned.close()
    # In its own time: the kernel takes a ring apart in the background.
    fcntl.flock(other, fcntl.LOCK_EX)
    os.close(other)


@needs_io_uring()
def test_a_core_keeps_its_pool_locked_until_nothing_of_its_is_under_way(tmp_path: Path) -> None:
    pool = Pool.open(tmp_path, NodeId("n1"))
    core = machine.KernelMachine(tmp_path, name="test", writes_fd=pool.writes_fd)
    pool.close()
    other = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    core.close()
    fcntl.flock(other, fcntl.LOCK_EX)
    os.close(other)


@needs_io_uring()
def test_a_file_that_cannot_be_kept_open_is_an_error() -> None:
    owned = ring.create_ring(8)
    with pytest.raises(OSError, match="Bad file descriptor"):
        owned.keep_open([-2])
    owned.close()


@needs_io_uring()
def test_a_set_up_that_the_kernel_refuses_falls_back_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unknown_flag = 1 << 31
    flags = {**ring.MODE_FLAGS, ring.RingMode.DEFER_TASKRUN: unknown_flag}
    monkeypatch.setattr(ring, "MODE_FLAGS", flags)
    support = ring.probe()
    assert support.mode is not ring.RingMode.DEFER_TASKRUN
    assert support.refused_modes[0] is ring.RingMode.DEFER_TASKRUN


@needs_io_uring()
def test_a_size_the_kernel_cannot_do_is_an_error_and_leaves_no_ring() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    with pytest.raises(ring.RingUnavailable, match="EINVAL"):
        ring.create_ring(1 << 30)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOSYS])
def test_a_seccomp_filter_is_named(number: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", REFUSE, str(number)], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("machine.io_uring The kernel refused to set up io_uring")
    assert "seccomp" in done.stdout
    assert "io_uring_setup, io_uring_enter and io_uring_register" in done.stdout


@pytest.mark.parametrize(
    ("number", "disabled", "filtered", "hint"),
    [
        (errno.EPERM, 2, False, "sysctl kernel.io_uring_disabled is 2"),
        (errno.EPERM, 2, True, "sysctl kernel.io_uring_disabled is 2"),
        (errno.EPERM, 1, False, "kernel.io_uring_group"),
        (errno.EPERM, 0, True, "seccomp"),
        (errno.EPERM, None, True, "seccomp"),
        (errno.EPERM, 0, False, "SELinux"),
        (errno.EACCES, 0, False, "SELinux"),
        (errno.ENOSYS, None, True, "seccomp"),
        (errno.ENOSYS, None, False, "CONFIG_IO_URING"),
        (errno.ENOMEM, 0, False, "ulimit -l"),
        (errno.EMFILE, 0, False, "ulimit -n"),
        (errno.EINVAL, 0, False, "Linux 5.11"),
    ],
)
def test_the_hint_names_the_switch(
    number: int, disabled: int | None, filtered: bool, hint: str
) -> None:
    error = ring.explain(number, disabled=disabled, filtered=filtered)
    assert hint in error.hint
    assert errno.errorcode[number] in str(error)


def test_the_sysctl_and_the_filter_are_read_from_proc(tmp_path: Path) -> None:
    sysctl, status = tmp_path / "io_uring_disabled", tmp_path / "status"
    assert ring.read_disabled_sysctl(sysctl) is None
    sysctl.write_text("1\n")
    assert ring.read_disabled_sysctl(sysctl) == 1
    sysctl.write_text("odd\n")
    assert ring.read_disabled_sysctl(sysctl) is None
    assert not ring.seccomp_filtered(status)
    status.write_text("Name:\tx\nSeccomp:\t0\nSeccomp_filters:\t2\n")
    assert not ring.seccomp_filtered(status)
    status.write_text("Seccomp:\t2\n")
    assert ring.seccomp_filtered(status)
