"""Waiting for the writes that a killed process left to a disk: who holds this lock is alone with what it is on.

Safety argument. A killed process is gone before what it handed to the disk is: a direct write that waits in the kernel
or in the device is carried out all the same, seconds later on a slow disk. A successor that had read its logs by then
would have missed it, and what it writes itself, to the same place in a log or to a superblock, may reach the disk
before the older write does, which then destroys what was acknowledged or promised. So the locked file is registered
with the ring through which the core writes (``OwnedRing.keep_open``): the kernel closes it when the last request of the
ring has ended, and a flock ends with the last reference to its open file.

What the ring gave to a worker (flushes, holes) and what other threads do (``node.json``, files that are made) is done
within system calls of the process, and no process ends within one: its descriptors stay open until the last of its
threads has ended, and so does whatever says that it lives (the pool's ``.lock``, the claim on a WAL device). No child
keeps the lock: descriptors are closed when a program is executed. Nor does a peer that answers nothing: the kernel
cancels what waits for a socket when the process ends.

The wait has no end of its own, for a disk that has not answered yet must not be read as if it had. Any signal with a
handler that raises ends it. The lock is on the file, whatever its path: a pool that is renamed or mounted elsewhere is
waited for, a copy that was made of it meanwhile is not.
"""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

#: The ordinary disk is at rest within some hundredths of a second.
TELL_S: Final = 1.0


def lock_at_rest(fd: int, path: Path, tell: Callable[[Path], None]) -> None:
    """Lock an open file as soon as nothing is under way to it any more.

    Args:
        path: its name, for people.
        tell: called on another thread, once, when it takes longer than ``TELL_S``; has ended when this returns.
    Raises:
        OSError: this file system locks no files.
    """
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        teller = threading.Timer(TELL_S, tell, [path])
        teller.start()
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
        finally:
            teller.cancel()
            teller.join()


def tell_nobody(path: Path) -> None:
    """For who has nobody to tell."""
