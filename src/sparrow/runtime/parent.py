"""A child process that does not outlive the one that started it, whatever happens to that one."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Mapping
from typing import Final

from sparrow.base.errors import MachineUnfit, Unavailable

#: The parent puts its process id here; the child calls :func:`die_with_parent` before anything else.
PARENT_VARIABLE: Final = "SPARROW_PARENT_PID"
_PR_SET_PDEATHSIG: Final = 1


def die_with_parent(environment: Mapping[str, str]) -> None:
    """Ask the kernel to kill this process when its parent dies; nothing happens when no parent is named.

    The child asks, not the parent between fork and exec: code run there may deadlock on a lock that another thread of
    the parent holds. Killed and not asked to stop, because nobody is left to see that it does.

    Raises:
        Unavailable: the parent died already.
        MachineUnfit: the kernel refused.
    Source: prctl(2), PR_SET_PDEATHSIG.
    """
    parent = environment.get(PARENT_VARIABLE, "")
    if not parent:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise MachineUnfit(f"prctl(PR_SET_PDEATHSIG) failed: {os.strerror(ctypes.get_errno())}.")
    # It may have died between our start and the call above; the signal is sent for later deaths only.
    if str(os.getppid()) != parent:
        raise Unavailable(f"The process {parent} that started this one is gone.")
