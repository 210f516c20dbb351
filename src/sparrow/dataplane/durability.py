"""Whether one flush may make the logs of several volumes durable; the core's way is in `_native/wal/durable.pyx`.

Three things must hold. The device has a volatile cache that a flush empties as a whole and no FUA (with FUA, or without
a cache, a durable write costs no flush and sharing would only add a round trip). The file system sends that flush at
every fdatasync, also of a file without dirty metadata: ext4 and XFS do, copying file systems do not. The blocks of the
rings were written before, so a write changes no metadata: `dataplane/files/contents.py` makes them so.

Sources: Documentation/block/writeback_cache_control.rst, Documentation/ABI/stable/sysfs-block.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: From so many log writes under way sharing flushes beats flushing each (docs/decisions/0008).
SHARE_FROM: Final = 16
FLUSHING_FILE_SYSTEMS: Final = frozenset({"ext4", "xfs"})


def share_from(logs: Path) -> int:
    """How many log writes must be under way before they share flushes; 0 when they never may.

    ``logs`` is a folder of files, or the block device that holds the rings: there fsync is always a flush.
    """
    found = logs.stat()
    if stat.S_ISBLK(found.st_mode):
        device = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
        return SHARE_FROM if pays_for_flushes(Path("/sys/dev/block") / device) else 0
    device = f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}"
    mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    if file_system_of(device, mounts) not in FLUSHING_FILE_SYSTEMS:
        return 0
    return SHARE_FROM if pays_for_flushes(Path("/sys/dev/block") / device) else 0


def file_system_of(device: str, mounts: Iterable[str]) -> str | None:
    """Type of the file system on ``major:minor``, from lines as in /proc/self/mountinfo (proc(5))."""
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields = before.split()
        if len(fields) > 2 and fields[2] == device and after:
            return after.split()[0]
    return None


def pays_for_flushes(block_device: Path) -> bool:
    """A volatile cache and no FUA; False when the kernel does not say, for then nothing may be built on it."""
    for folder in (block_device / "queue", block_device / ".." / "queue"):
        try:
            cache = (folder / "write_cache").read_text(encoding="ascii").strip()
            fua = (folder / "fua").read_text(encoding="ascii").strip()
        except OSError:
            continue  # a partition: its disk has the queue
        return cache == "write back" and fua == "0"
    return False
