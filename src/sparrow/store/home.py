"""Where a store is at home: the very file its database is in.

A master that is started on a copy of a living master's store knows nothing of that one, nor that one of it. Where
nodes cannot hear each other, generations do not help: each node hears one master and has nothing to compare. Of a line
{A, B} one master lets A go on without B, the other lets B go on without A, both as the record allows, and two
primaries acknowledge writes that contradict each other (35, S18). So a copy must not begin as if it were the original.

What tells a copy is its place. The store records the inode of the file it is in and the moment that inode was made.
Neither can be given to another file: whatever copies, unpacks or restores a file makes a new inode, now. Both stay as
they are when the store is written, when its directory is renamed, when the machine restarts, and when the file system
is attached to another machine. A start in another file is refused, with the verb that may put a copy in place. That
verb (``store.restore``) records the new home and marks every volume unconfirmed; nothing is minted for a volume then
before every member of its newest line has answered. With its answer each of them has heard the higher generation, and
refuses whatever the original says from then on. So of each volume one of the two masters mints at most: the original
until the last member has answered the copy, and after that the copy alone.

What it cannot tell: an old copy that is written into the very file of the store while no master runs; its nodes have
heard higher generations then, and refuse it. A copy of a whole file system or disk below the file, a snapshot or a
clone of a machine, has the same inode. A file system without stable inodes (some of FUSE) makes every start look like
one on a copy, and is not fit for a store. Where a file system does not tell when an inode was made, its number counts
alone.
"""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path
from typing import Final

#: linux/stat.h: where statx(2) puts what is asked for.
AT_FDCWD: Final = -100
STATX_INO: Final = 0x100
STATX_BTIME: Final = 0x800
STATX_BYTES: Final = 256
MASK: Final = struct.Struct("<I")
INO: Final = (struct.Struct("<Q"), 0x20)
BTIME: Final = (struct.Struct("<qI"), 0x50)


def home_of(path: Path) -> str:
    """The file itself, whatever it is called: inode and time of birth, as text. Raises: OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    found = ctypes.create_string_buffer(STATX_BYTES)
    wanted = STATX_INO | STATX_BTIME
    if libc.statx(AT_FDCWD, os.fsencode(path), 0, wanted, found) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(path))
    (inode,) = INO[0].unpack_from(found, INO[1])
    seconds, nanoseconds = BTIME[0].unpack_from(found, BTIME[1])
    born = MASK.unpack_from(found, 0)[0] & STATX_BTIME
    return f"{inode}" if not born else f"{inode} {seconds}.{nanoseconds:09d}"


def same_home(recorded: str, here: str) -> bool:
    """Whether it is the same file; a time of birth that only one of the two tells is no difference.

    A kernel or a file server that was replaced may begin to tell it.
    """
    inode, _, born = recorded.partition(" ")
    inode_here, _, born_here = here.partition(" ")
    return inode == inode_here and (not born or not born_here or born == born_here)
