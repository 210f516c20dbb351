"""Whether one flush may make the logs of several volumes durable; the core's way is in `_native/wal/durable.pyx`.

Four things must hold. The device has a volatile cache that a flush empties as a whole and no FUA (with FUA, or without
a cache, a durable write costs no flush and sharing would only add a round trip). The file system sends that flush at
every fdatasync, also of a file without dirty metadata: ext4 and XFS do, copying file systems do not. Writes go past
the page cache, and not through a journal, where a flush of one file leaves what others wrote: so not ext4 with
data=journal. The blocks of the rings were written before, so a write changes no metadata:
`dataplane/files/contents.py` makes them so.

Sources: Documentation/block/writeback_cache_control.rst, Documentation/ABI/stable/sysfs-block,
Documentation/admin-guide/ext4.rst ("data=journal").
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

#: From so many log writes under way sharing flushes beats flushing each (docs/decisions/0008).
SHARE_FROM: Final = 4
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
    if not flushed_as_a_whole(device, mounts):
        return 0
    return SHARE_FROM if pays_for_flushes(Path("/sys/dev/block") / device) else 0


def flushed_as_a_whole(device: str, mounts: Iterable[str]) -> bool:
    """Whether a flush of one file reaches direct writes to all of the file system on ``major:minor``.

    ``mounts`` are lines as in /proc/self/mountinfo (proc(5)).
    """
    for line in mounts:
        before, _, after = line.partition(" - ")
        fields, words = before.split(), after.split()
        if len(fields) > 2 and fields[2] == device and len(words) > 2:
            kind, _source, options = words
            return kind in FLUSHING_FILE_SYSTEMS and "data=journal" not in options.split(",")
    return False


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
