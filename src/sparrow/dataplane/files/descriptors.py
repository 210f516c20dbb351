"""A replica's files while they are open: descriptors and what counts of the superblock; made longer, and emptied."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import StorageError
from sparrow.dataplane.files.absences import open_absences, read_absences
from sparrow.dataplane.files.contents import CHUNK_BYTES, blank_sums
from sparrow.dataplane.files.superblock import (
    choose_superblock,
    make_list_places,
    read_copies,
)
from sparrow.dataplane.wal_device import WalDevice
from sparrow.formats.layout import Record
from sparrow.formats.sums import PAGES_PER_BLOCK, SUMS_BLOCK
from sparrow.formats.superblock import SUPERBLOCK

#: The log and the superblock bypass the page cache: what is durable must not depend on it.
FILE_FLAGS: Final = (
    ("superblock", os.O_DIRECT),
    ("extents", 0),
    ("extents", os.O_DIRECT),
    ("sums", 0),
)
WAL_FLAGS: Final = os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaFiles:
    """Open descriptors, and the superblock that counts. The descriptors belong to whoever holds this."""

    folder: Path
    superblock_fd: int
    wal_fd: int
    extents_fd: int
    #: The same file past the page cache.
    extents_direct_fd: int
    sums_fd: int
    absences_fd: int
    superblock: bytes
    fields: Record
    #: Only one copy was whole: a newer promise may be lost.
    suspect: bool
    #: The bits of every absence map in use, one after the other; maps that are damaged are struck from the superblock.
    absences: bytes

    def close(self) -> None:
        close_all(
            [
                self.superblock_fd,
                self.wal_fd,
                self.extents_fd,
                self.extents_direct_fd,
                self.sums_fd,
                self.absences_fd,
            ]
        )


def open_files(folder: Path, wal_device: WalDevice | None = None) -> ReplicaFiles:
    """Open a replica's files and choose its superblock.

    Raises:
        DamagedData: neither copy of the superblock is whole.
        StorageError: a file is missing or cannot be opened, or the log lies on a WAL device that is not this one.
    """
    opened: list[int] = []
    try:
        make_list_places(folder / "superblock")
        for name, flags in FILE_FLAGS:
            opened.append(os.open(folder / name, os.O_RDWR | os.O_CLOEXEC | flags))
        best, suspect = choose_superblock(read_copies(opened[0]), folder)
        fields = SUPERBLOCK.unpack(best)
        opened.append(_open_wal(folder, fields, wal_device))
        opened.append(open_absences(folder, _held_bytes(folder, fields)))
        best, absences = read_absences(partial(_pread, opened[-1]), best, fields)
    except OSError as error:
        close_all(opened)
        raise StorageError(
            f"{folder} cannot be opened: {error.strerror} ({error.filename})."
        ) from error
    except StorageError:
        close_all(opened)
        raise
    return ReplicaFiles(
        folder=folder,
        superblock_fd=opened[0],
        wal_fd=opened[4],
        extents_fd=opened[1],
        extents_direct_fd=opened[2],
        sums_fd=opened[3],
        absences_fd=opened[5],
        superblock=best,
        fields=fields,
        suspect=suspect,
        absences=absences,
    )


def _open_wal(folder: Path, fields: Record, wal_device: WalDevice | None) -> int:
    if fields.number("wal_offset") == 0:
        return os.open(folder / "wal", WAL_FLAGS)
    wanted = fields.blob("wal_device").hex()
    if wal_device is None or wal_device.uuid != wanted:
        raise StorageError(
            f"The log of {folder} lies on WAL device {wanted}, which this node does not have.",
            hint="Start the node with --wal-device naming it; without its log a replica is not whole.",
        )
    return wal_device.open_ring()


def _held_bytes(folder: Path, fields: Record) -> int:
    """How long a volume the sums may be of; a resize that was cut leaves them longer than the superblock says."""
    blocks = (folder / "sums").stat().st_size // SUMS_BLOCK.size
    return max(fields.number("size_bytes"), blocks * PAGES_PER_BLOCK * PAGE_BYTES)


def _pread(fd: int, offset: int, length: int) -> bytes:
    return os.pread(fd, length, offset)


@dataclass(frozen=True, slots=True)
class DirectFiles:
    """Extents and sums, read past the page cache where the file system can."""

    extents_fd: int
    sums_fd: int

    def close(self) -> None:
        close_all([self.extents_fd, self.sums_fd])


def open_direct(folder: Path) -> DirectFiles:
    """Raises: StorageError."""
    opened: list[int] = []
    try:
        for name in ("extents", "sums"):
            flags = os.O_RDONLY | os.O_CLOEXEC
            try:
                opened.append(os.open(folder / name, flags | os.O_DIRECT))
            except OSError:
                opened.append(os.open(folder / name, flags))
    except OSError as error:
        close_all(opened)
        raise StorageError(f"{folder} cannot be read: {error.strerror}.") from error
    return DirectFiles(extents_fd=opened[0], sums_fd=opened[1])


def pages_held(files: ReplicaFiles) -> int:
    """Pages that the extents and the sums of an open replica can hold: never less than its volume has."""
    sums = os.fstat(files.sums_fd).st_size // SUMS_BLOCK.size * PAGES_PER_BLOCK
    return min(sums, os.fstat(files.extents_fd).st_size // PAGE_BYTES)


def grow_files(files: ReplicaFiles, size_bytes: int) -> None:
    """Make room for a longer volume, sums written and everything durable; what is as long already stays.

    On a thread, and by path, like :func:`empty_files`. What a crash leaves half-way is made whole by the next call.

    Raises: OSError; without room nothing is kept of the attempt.
    """
    with (files.folder / "sums").open("r+b", buffering=CHUNK_BYTES) as sums:
        have = os.fstat(sums.fileno()).st_size // SUMS_BLOCK.size
        sums.seek(have * SUMS_BLOCK.size)
        try:
            for block in blank_sums(files.fields.number("volume_key"), size_bytes, first=have):
                sums.write(block)
            sums.flush()
            os.fsync(sums.fileno())
        except OSError:
            os.ftruncate(sums.fileno(), have * SUMS_BLOCK.size)
            raise
    os.close(open_absences(files.folder, size_bytes))
    with (files.folder / "extents").open("r+b") as extents:
        if os.fstat(extents.fileno()).st_size < size_bytes:
            os.ftruncate(extents.fileno(), size_bytes)
        os.fsync(extents.fileno())


def empty_files(files: ReplicaFiles) -> None:
    """Back to nothing but holes, for a rebuild; the superblock says ``rebuilding`` already.

    Runs on a thread that nobody can stop, so it opens the files itself: a number that the replica has closed meanwhile
    may be another volume's file by now.
    """
    # As long as they were grown meanwhile; the sums tell it even where a crash cut the extents short.
    blocks = (files.folder / "sums").stat().st_size // SUMS_BLOCK.size
    size_bytes = max(files.fields.number("size_bytes"), blocks * PAGES_PER_BLOCK * PAGE_BYTES)
    with (files.folder / "extents").open("r+b") as extents:
        os.ftruncate(extents.fileno(), 0)
        os.ftruncate(extents.fileno(), size_bytes)
        os.fsync(extents.fileno())
    with (files.folder / "sums").open("r+b", buffering=CHUNK_BYTES) as sums:
        for block in blank_sums(files.fields.number("volume_key"), size_bytes):
            sums.write(block)
        sums.flush()
        os.fdatasync(sums.fileno())


def close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)
