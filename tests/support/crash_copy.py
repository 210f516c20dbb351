"""Copy a replica's files while a core writes them, so that the copy is what a crash could have left.

A program of its own, because copying in the process of the test would take turns with its threads. Arguments: the
replica's directory, the directory to make, and where the superblock has ``tail_offset`` and ``tail_lsn`` and a batch
has ``first_lsn``. Why the copy is a state that a disk could have been in: the superblock comes first, so everything
else is newer than it says; the log comes last, so what the extents hold beyond the superblock is in it; the log is
copied from its newest end to its oldest, so no batch is in the copy without those that were durable before it; and in
the end the log must still begin where the superblock says, else its space was used again and all is copied anew.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

PAGE = 4096


def copy_sparse(source: Path, target: Path) -> None:
    """Holes stay holes."""
    size = source.stat().st_size
    with source.open("rb") as read, target.open("wb") as write:
        write.truncate(size)
        at = 0
        while at < size:
            try:
                at = os.lseek(read.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(read.fileno(), at, os.SEEK_HOLE)
            while at < end:
                data = os.pread(read.fileno(), min(end - at, 1 << 20), at)
                os.pwrite(write.fileno(), data, at)
                at += len(data)


def copy_newest_first(source: Path, target: Path, tail_offset: int) -> None:
    size = source.stat().st_size
    log = bytearray(size)
    with source.open("rb") as read:
        for distance in range(size - PAGE, -1, -PAGE):
            at = (tail_offset + distance) % size
            log[at : at + PAGE] = os.pread(read.fileno(), PAGE, at)
    target.write_bytes(log)


def main(
    source: Path, target: Path, tail_offset_at: int, tail_lsn_at: int, first_lsn_at: int
) -> None:
    target.mkdir(parents=True)
    while True:
        superblock = (source / "superblock").read_bytes()
        tail_offset = int.from_bytes(superblock[tail_offset_at : tail_offset_at + 8], "little")
        tail_lsn = superblock[tail_lsn_at : tail_lsn_at + 8]
        for name in ("extents", "sums", "absences"):
            copy_sparse(source / name, target / name)
        copy_newest_first(source / "wal", target / "wal", tail_offset)
        with (source / "wal").open("rb") as log:
            oldest = os.pread(log.fileno(), PAGE, tail_offset)
        first_lsn = int.from_bytes(oldest[first_lsn_at : first_lsn_at + 8], "little")
        if first_lsn == int.from_bytes(tail_lsn, "little") + 1:
            (target / "superblock").write_bytes(superblock)
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:6]))
