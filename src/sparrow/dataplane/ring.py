"""Rings for reactors: what the kernel offers, set-up with fall-backs, and who closes them.

This is the cold side of io_uring, a handful of calls in the life of a process. A ring is made here and handed to a
reactor by address; the reactor submits and reaps with liburing's inline functions and never comes back here.

Every ring is made disabled (``IORING_SETUP_R_DISABLED``). With ``SINGLE_ISSUER`` the kernel binds a ring to the thread
that enables it, so the reactor's thread must call ``io_uring_enable_rings`` before it submits anything; a ring enabled
here would belong to the wrong thread and refuse the reactor with EEXIST.

Source: io_uring_setup(2), io_uring_register(2).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from sparrow._native import _liburing
from sparrow.base.errors import MachineUnfit

lib = _liburing.lib
ffi = _liburing.ffi

OPERATIONS: Final = (
    "READ",
    "WRITE",
    "READ_FIXED",
    "WRITE_FIXED",
    "FSYNC",
    "FALLOCATE",
    "SYNC_FILE_RANGE",
    "POLL_ADD",
    "POLL_REMOVE",
    "SEND",
    "RECV",
    "SENDMSG",
    "RECVMSG",
    "ACCEPT",
    "CONNECT",
    "SHUTDOWN",
    "CLOSE",
    "TIMEOUT",
    "TIMEOUT_REMOVE",
    "ASYNC_CANCEL",
    "MSG_RING",
    "SEND_ZC",
    "SENDMSG_ZC",
)
#: Good to have; the core does without.
OPTIONAL_OPERATIONS: Final = frozenset({"MSG_RING", "SEND_ZC", "SENDMSG_ZC", "SYNC_FILE_RANGE"})

FEATURES: Final = (
    "SINGLE_MMAP",
    "NODROP",
    "SUBMIT_STABLE",
    "RW_CUR_POS",
    "FAST_POLL",
    "EXT_ARG",
    "NATIVE_WORKERS",
    "CQE_SKIP",
)
#: No completion is lost when the queue is full, buffers of a request may go after submission,
#: sockets are polled without a worker, and a wait can carry a time-out.
REQUIRED_FEATURES: Final = frozenset({"NODROP", "SUBMIT_STABLE", "FAST_POLL", "EXT_ARG"})

SYSCALLS: Final = "io_uring_setup, io_uring_enter and io_uring_register"
DISABLED_SYSCTL: Final = Path("/proc/sys/kernel/io_uring_disabled")
PROCESS_STATUS: Final = Path("/proc/self/status")


class RingMode(StrEnum):
    """How the kernel runs completions, best first."""

    #: Completion work runs only when the reactor asks for it; Linux 6.1.
    DEFER_TASKRUN = "defer_taskrun"
    #: One submitter, no interrupting of the reactor to run completions; Linux 6.0.
    SINGLE_ISSUER = "single_issuer"
    PLAIN = "plain"


MODE_FLAGS: Final[dict[RingMode, int]] = {
    RingMode.DEFER_TASKRUN: lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_DEFER_TASKRUN,
    RingMode.SINGLE_ISSUER: lib.IORING_SETUP_SINGLE_ISSUER | lib.IORING_SETUP_COOP_TASKRUN,
    RingMode.PLAIN: 0,
}


class RingUnavailable(MachineUnfit, code="machine.io_uring"):
    """io_uring is off, forbidden or too old here; the hint names the switch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RingSupport:
    """What this kernel offers to this process.

    Attributes:
        kernel: release of the running kernel.
        mode: the best set-up the kernel accepted.
        refused_modes: better set-ups that it refused.
        features: names without the ``IORING_FEAT_`` prefix.
        operations: names without the ``IORING_OP_`` prefix.
    """

    kernel: str
    mode: RingMode
    refused_modes: tuple[RingMode, ...]
    features: frozenset[str]
    operations: frozenset[str]

    @property
    def missing(self) -> tuple[str, ...]:
        """What the core cannot do without and this kernel lacks."""
        operations = frozenset(OPERATIONS) - OPTIONAL_OPERATIONS - self.operations
        return (*sorted(REQUIRED_FEATURES - self.features), *sorted(operations))


class OwnedRing:
    """A ring's memory and its file descriptor; the owner closes it after its reactor has stopped."""

    def __init__(self, ring: Any, support: RingSupport) -> None:
        self._ring = ring
        self.support = support

    @property
    def address(self) -> int:
        """Address of the ``struct io_uring``; valid until close()."""
        if self._ring is None:
            raise ValueError("the ring is closed")
        return int(ffi.cast("uintptr_t", self._ring))

    @property
    def mode(self) -> RingMode:
        return self.support.mode

    @property
    def closed(self) -> bool:
        return self._ring is None

    def keep_open(self, fds: Sequence[int]) -> None:
        """Let open files, with the flocks on them, stay open until the kernel has ended every request of this ring.

        That may be later than the end of the process: a write that was handed to the disk is not called back by it
        (``dataplane.at_rest``). Not so sends without a copy: those end when the peer has acknowledged them, or is given
        up by TCP after minutes. Once per ring, before it is enabled; the caller may close its descriptors at any time.

        Raises:
            OSError: the kernel refuses.

        Source: io_uring_register(2), IORING_REGISTER_FILES; the kernel frees the table with the ring, after the last
        request (``io_ring_exit_work``).
        """
        status = lib.io_uring_register_files(self._ring, ffi.new("int[]", list(fds)), len(fds))
        if status < 0:
            raise OSError(-status, os.strerror(-status))

    def close(self) -> None:
        """Give the ring back to the kernel. No thread may use it any more; a second call does nothing."""
        if self._ring is not None:
            lib.io_uring_queue_exit(self._ring)
            self._ring = None


def probe() -> RingSupport:
    """What the kernel offers, found by making a small ring and closing it.

    Raises:
        RingUnavailable: no ring can be made, or the kernel lacks something the core needs.
    """
    ring = create_ring(8)
    ring.close()
    return ring.support


def create_ring(entries: int, *, completions: int | None = None) -> OwnedRing:
    """Make a disabled ring in the best mode the kernel accepts.

    Args:
        entries: submission queue entries; the kernel rounds up to a power of two.
        completions: completion queue entries; twice ``entries`` when None.
    Raises:
        RingUnavailable: no ring can be made, or the kernel lacks something the core needs.
    """
    refused: list[RingMode] = []
    status = 0
    for mode in RingMode:
        ring, params, status = _try_mode(mode, entries, completions)
        if status == 0:
            support = _describe(ring, params, mode, tuple(refused))
            if support.missing:
                lib.io_uring_queue_exit(ring)
                raise RingUnavailable(
                    f"io_uring of kernel {support.kernel} lacks {', '.join(support.missing)}.",
                    hint="sparrow needs Linux 5.11 or newer; 6.1 or newer is advised.",
                )
            return OwnedRing(ring, support)
        if -status != errno.EINVAL:
            break
        # EINVAL is how a kernel says that it does not know a set-up flag.
        refused.append(mode)
    raise explain(-status, disabled=read_disabled_sysctl(), filtered=seccomp_filtered())


def _try_mode(mode: RingMode, entries: int, completions: int | None) -> tuple[Any, Any, int]:
    ring = ffi.new("struct io_uring *")
    params = ffi.new("struct io_uring_params *")
    params.flags = MODE_FLAGS[mode] | lib.IORING_SETUP_R_DISABLED
    if completions is not None:
        params.flags |= lib.IORING_SETUP_CQSIZE
        params.cq_entries = completions
    status: int = lib.io_uring_queue_init_params(entries, ring, params)
    return ring, params, status


def _describe(ring: Any, params: Any, mode: RingMode, refused: tuple[RingMode, ...]) -> RingSupport:
    found = lib.io_uring_get_probe_ring(ring)
    operations: frozenset[str] = frozenset()
    if found != ffi.NULL:
        operations = frozenset(
            name
            for name in OPERATIONS
            if lib.io_uring_opcode_supported(found, getattr(lib, f"IORING_OP_{name}"))
        )
        lib.io_uring_free_probe(found)
    features = frozenset(
        name for name in FEATURES if params.features & getattr(lib, f"IORING_FEAT_{name}")
    )
    return RingSupport(
        kernel=os.uname().release,
        mode=mode,
        refused_modes=refused,
        features=features,
        operations=operations,
    )


def read_disabled_sysctl(path: Path = DISABLED_SYSCTL) -> int | None:
    """kernel.io_uring_disabled, or None on kernels before 6.6 that do not have it."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def seccomp_filtered(path: Path = PROCESS_STATUS) -> bool:
    """Is a seccomp filter in force for this process (``Seccomp: 2`` in proc_pid_status(5))?"""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return False
    return any(line.split() == ["Seccomp:", "2"] for line in lines)


def explain(number: int, *, disabled: int | None, filtered: bool) -> RingUnavailable:
    """The error for a ring that could not be made, with the switch to look at.

    Args:
        number: errno of io_uring_setup(2), positive.
        disabled: kernel.io_uring_disabled, None where there is none.
        filtered: a seccomp filter is in force.
    """
    seccomp = (
        "A seccomp filter is in force for this process: allow "
        f"{SYSCALLS} in it (container run-times block them by default: give the container a seccomp profile with "
        "these three; systemd: SystemCallFilter=)."
    )
    name = errno.errorcode.get(number, str(number))
    message = f"The kernel refused to set up io_uring: {os.strerror(number)} ({name})."
    if number == errno.EPERM and disabled == 2:
        hint = (
            "The sysctl kernel.io_uring_disabled is 2, which turns io_uring off for everybody: "
            "sysctl -w kernel.io_uring_disabled=0"
        )
    elif number == errno.EPERM and disabled == 1:
        hint = (
            "The sysctl kernel.io_uring_disabled is 1, which leaves io_uring to CAP_SYS_ADMIN and the group in "
            "kernel.io_uring_group: add this user to that group, or sysctl -w kernel.io_uring_disabled=0"
        )
    elif number in (errno.EPERM, errno.EACCES, errno.ENOSYS) and filtered:
        hint = seccomp
    elif number == errno.ENOSYS:
        hint = "This kernel is built without io_uring (CONFIG_IO_URING): run one that has it, 6.1 or newer."
    elif number in (errno.EPERM, errno.EACCES):
        hint = (
            "Neither the sysctl kernel.io_uring_disabled nor a seccomp filter is the cause: look for a denial of "
            "io_uring by the security module (SELinux, AppArmor) in the kernel's log."
        )
    elif number == errno.ENOMEM:
        hint = "Locked memory is short: raise the limit (ulimit -l, LimitMEMLOCK= in systemd)."
    elif number in (errno.EMFILE, errno.ENFILE):
        hint = "File descriptors are short: raise the limit (ulimit -n, LimitNOFILE= in systemd)."
    else:
        hint = "sparrow needs Linux 5.11 or newer; 6.1 or newer is advised."
    return RingUnavailable(message, hint=hint)
