"""The files of one replica: made, opened and emptied here, on a thread that may block; the core only reads and writes.

``<pool>/volumes/<volume id>/<replica id>/`` holds ``superblock``, ``wal``, ``extents``, ``sums``, ``absences``. A
replica is made in a folder of another name and renamed when everything in it is durable, so a folder by the right name
is a whole replica. A node with a WAL device keeps the log in a ring there (`dataplane/wal_device.py`); the superblock
says where.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import shutil
import struct
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sparrow._native.crc import crc32c
from sparrow.base.constants import FEATURE_LEVEL, FEATURE_LEVEL_MIN, PAGE_BYTES
from sparrow.base.errors import AlreadyExists, DamagedData, NotFound, StorageError, UnknownFormat
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.wal_device import WalDevice
from sparrow.formats.absences import (
    ABSENCE_BLOCK,
    ABSENCE_FORMAT,
    ABSENCE_ROW,
    ABSENCES_MAX,
    absence_blocks,
)
from sparrow.formats.layout import Record
from sparrow.formats.reservations import RESERVATION_BYTES
from sparrow.formats.sums import PAGES_PER_BLOCK, SUMS_BLOCK
from sparrow.formats.superblock import (
    STATE_CLEAN,
    SUPERBLOCK,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_FILE_BYTES,
    SUPERBLOCK_FORMAT,
    SUPERBLOCK_MAGIC,
    TABLE_SLOTS_OFFSET,
)

WAL_BYTES_MIN = 16 << 20
WAL_BYTES_MAX = 256 << 20
CHUNK_BYTES = 1 << 20
SUMS_FORMAT = 1
#: The log and the superblock bypass the page cache: what is durable must not depend on it.
FILE_FLAGS = (("superblock", os.O_DIRECT), ("extents", 0), ("extents", os.O_DIRECT), ("sums", 0))
WAL_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_DIRECT
#: A copy is taken for damaged when it is so every time of these.
SUPERBLOCK_LOOKS = 3


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
        _close_all(
            [
                self.superblock_fd,
                self.wal_fd,
                self.extents_fd,
                self.extents_direct_fd,
                self.sums_fd,
                self.absences_fd,
            ]
        )


def volume_key(volume_id: VolumeId) -> int:
    """The hash that names a volume in batches and frames."""
    return int.from_bytes(hashlib.sha256(volume_id.encode()).digest()[:8], "little")


def wal_bytes_for(size_bytes: int) -> int:
    """A sixteenth of the volume, within bounds, whole blocks."""
    wanted = min(max(size_bytes // 16, WAL_BYTES_MIN), WAL_BYTES_MAX)
    return wanted // CHUNK_BYTES * CHUNK_BYTES


def find_replicas(pool: Path) -> Iterator[tuple[VolumeId, Path]]:
    """Every whole replica of a pool."""
    volumes = pool / "volumes"
    if not volumes.is_dir():
        return
    for volume in sorted(volumes.iterdir()):
        folder = _replica_in(volume)
        if folder is not None:
            yield VolumeId(volume.name), folder


def find_replica(pool: Path, volume_id: VolumeId) -> Path:
    """Looks at this volume alone: a node that starts asks for hundreds. Raises: NotFound."""
    folder = _replica_in(pool / "volumes" / volume_id)
    if folder is None:
        raise NotFound(f"This pool holds no replica of volume {volume_id!r}.")
    return folder


def _replica_in(volume: Path) -> Path | None:
    """The whole replica in a volume's folder; None when there is none."""
    for folder in sorted(volume.iterdir()) if volume.is_dir() else ():
        if (folder / "superblock").is_file() and not folder.name.endswith(".new"):
            return folder
    return None


def format_replica(
    pool: Path,
    volume_id: VolumeId,
    replica_id: ReplicaId,
    *,
    size_bytes: int,
    block_size: int,
    wal_device: WalDevice | None = None,
) -> ReplicaUuid:
    """Make a blank replica; durable under its name when this returns.

    Raises:
        AlreadyExists: the pool holds a replica of this volume.
        StorageError: the pool has no room, or its file system refused something.
    """
    parent = pool / "volumes" / volume_id
    folder = parent / replica_id
    fresh = parent / f"{replica_id}.new"
    there = _replica_in(parent)
    if there is not None:
        raise AlreadyExists(
            f"Volume {volume_id!r} has files in {there} already; they are never overwritten."
        )
    own = ReplicaUuid(uuid.uuid4().hex)
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        if wal_device is None:
            ring = None
            _write_zeros(fresh / "wal", wal_bytes_for(size_bytes))
        else:
            ring = wal_device.allocate(own, wal_bytes_for(size_bytes))
        _write_extents(fresh / "extents", size_bytes)
        _write_sums(fresh / "sums", volume_key(volume_id), size_bytes)
        os.close(_open_absences(fresh, size_bytes))
        _write_superblock(
            fresh / "superblock",
            blank_superblock(
                volume_id,
                replica_id,
                bytes.fromhex(own),
                size_bytes=size_bytes,
                block_size=block_size,
                wal_bytes=wal_bytes_for(size_bytes),
                wal_offset=0 if ring is None else ring.offset,
                wal_device=bytes(16) if wal_device is None else bytes.fromhex(wal_device.uuid),
            ),
        )
        _sync_folder(fresh)
        fresh.rename(folder)
        for path in (parent, parent.parent, pool):
            _sync_folder(path)
    except (OSError, StorageError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if wal_device is not None:
            wal_device.free(own)
        if isinstance(error, StorageError):
            raise
        raise StorageError(
            f"The replica of volume {volume_id!r} could not be made in {parent}: {error.strerror}.",
            hint="Look at the room and the health of the pool's file system.",
        ) from error
    return own


def blank_superblock(
    volume_id: VolumeId,
    replica_id: ReplicaId,
    own_uuid: bytes,
    *,
    size_bytes: int,
    block_size: int,
    wal_bytes: int,
    wal_offset: int = 0,
    wal_device: bytes = bytes(16),
) -> bytes:
    """One copy of the superblock of a replica that holds nothing, with its checksum."""
    block = SUPERBLOCK.pack(
        {
            "magic": SUPERBLOCK_MAGIC,
            "check": 0,
            "format": SUPERBLOCK_FORMAT,
            "feature_level": 1,
            "sequence": 1,
            "volume_key": volume_key(volume_id),
            "uuid": own_uuid,
            "replica_id": replica_bytes(replica_id),
            "size_bytes": size_bytes,
            "block_size": block_size,
            "state": STATE_CLEAN,
            "start": 0,
            "promised_epoch": 0,
            "promised_start": 0,
            "promised_primary": bytes(16),
            "wal_bytes": wal_bytes,
            "wal_offset": wal_offset,
            "wal_device": wal_device,
            "tail_offset": 0,
            "tail_lsn": 0,
            "tail_check": 0,
            "term_rows": 0,
            "applied_lsn": 0,
            "base_lsn": 0,
            "base_cursor": 0,
            "base_from": 0,
            "base_patched": 0,
            "absences": bytes(128),
            "line_bytes": 0,
            "applied_check": 0,
            "applied_offset": 0,
            "table_lsn": 0,
            "table_check": 0,
            "table_slot": 0,
            "terms": bytes(1152),
            "line": bytes(2528),
            "joint_from": 0,
            "joint_to": 0,
            "reach_epoch": 0,
            "reach_start": 0,
            "reach_lsn": 0,
        }
    )
    at = SUPERBLOCK.offset_of("check")
    return block[:at] + struct.pack("<I", crc32c(block)) + block[at + 4 :]


def open_files(folder: Path, wal_device: WalDevice | None = None) -> ReplicaFiles:
    """Open a replica's files and choose its superblock.

    Raises:
        DamagedData: neither copy of the superblock is whole.
        StorageError: a file is missing or cannot be opened, or the log lies on a WAL device that is not this one.
    """
    opened: list[int] = []
    try:
        _make_list_places(folder / "superblock")
        for name, flags in FILE_FLAGS:
            opened.append(os.open(folder / name, os.O_RDWR | os.O_CLOEXEC | flags))
        best, suspect = choose_superblock(_read_copies(opened[0]), folder)
        fields = SUPERBLOCK.unpack(best)
        opened.append(_open_wal(folder, fields, wal_device))
        opened.append(_open_absences(folder, _held_bytes(folder, fields)))
        best, absences = read_absences(partial(_pread, opened[-1]), best, fields)
    except OSError as error:
        _close_all(opened)
        raise StorageError(
            f"{folder} cannot be opened: {error.strerror} ({error.filename})."
        ) from error
    except StorageError:
        _close_all(opened)
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


def _make_list_places(path: Path) -> None:
    """Make a superblock's file of an older version as long as it is now; as it is where the pool has no room.

    Written, not only allocated, and durable: the core writes there in every checkpoint, and without that place it does
    without (``_native/extent/seals.pyx``).
    """
    missing = SUPERBLOCK_FILE_BYTES - path.stat().st_size
    if missing <= 0:
        return
    try:
        with path.open("ab") as file:
            file.write(bytes(missing))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise


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


def uuid_of(folder: Path) -> ReplicaUuid:
    """Which replica the files in a folder are. Raises: DamagedData, when no copy of its superblock is whole."""
    fd = os.open(folder / "superblock", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    try:
        best, _ = choose_superblock(_read_copies(fd), folder)
    finally:
        os.close(fd)
    return ReplicaUuid(SUPERBLOCK.unpack(best).blob("uuid").hex())


def reclaim_rings(pool: Path, wal_device: WalDevice) -> None:
    """Give back what a crash left on the WAL device; nothing while a replica cannot say which ring is its own."""
    with suppress(DamagedData):
        wal_device.keep_only([uuid_of(folder) for _, folder in find_replicas(pool)])


def _held_bytes(folder: Path, fields: Record) -> int:
    """How long a volume the sums may be of; a resize that was cut leaves them longer than the superblock says."""
    blocks = (folder / "sums").stat().st_size // SUMS_BLOCK.size
    return max(fields.number("size_bytes"), blocks * PAGES_PER_BLOCK * PAGE_BYTES)


def _open_absences(folder: Path, size_bytes: int) -> int:
    """Made when missing, as long as the volume needs, and allocated: no checkpoint fails for its sake."""
    fd = os.open(folder / "absences", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        length = absence_blocks(size_bytes) * ABSENCES_MAX * ABSENCE_BLOCK.size
        if os.fstat(fd).st_size < length:
            os.posix_fallocate(fd, 0, length)
            os.fsync(fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def _pread(fd: int, offset: int, length: int) -> bytes:
    return os.pread(fd, length, offset)


def read_absences(
    read: Callable[[int, int], bytes], superblock: bytes, fields: Record
) -> tuple[bytes, bytes]:
    """The superblock without the rows of maps that are damaged, and the bits of the others.

    Args:
        read: gives so many bytes of the file at an offset, fewer at its end.
    """
    count = absence_blocks(fields.number("size_bytes"))
    start = SUPERBLOCK.offset_of("absences")
    rows = bytearray(superblock[start : start + ABSENCES_MAX * ABSENCE_ROW.size])
    found = []
    for number in range(ABSENCES_MAX):
        row = ABSENCE_ROW.unpack(rows, offset=number * ABSENCE_ROW.size)
        if not any(row.blob("uuid")):
            continue
        generation = row.number("generation")
        bits = _read_map(read, fields.number("volume_key"), number, generation, count)
        if bits is None:
            at = number * ABSENCE_ROW.size
            rows[at : at + ABSENCE_ROW.size] = ABSENCE_ROW.pack(
                {"uuid": bytes(16), "from_lsn": 0, "generation": generation}
            )
        else:
            found.append(bits)
    return superblock[:start] + bytes(rows) + superblock[start + len(rows) :], b"".join(found)


def _read_map(
    read: Callable[[int, int], bytes], key: int, number: int, generation: int, count: int
) -> bytes | None:
    """The bits of one map; None when a block of it is damaged."""
    parts = []
    for block in range(count):
        data = read((block * ABSENCES_MAX + number) * ABSENCE_BLOCK.size, ABSENCE_BLOCK.size)
        if len(data) != ABSENCE_BLOCK.size:
            return None
        seed = crc32c(struct.pack("<3Q", key, generation, block))
        if struct.unpack_from("<I", data)[0] != crc32c(
            bytes(4) + data[4:], seed
        ) or struct.unpack_from("<IQI", data, 4) != (ABSENCE_FORMAT, block, generation):
            return None
        parts.append(data[ABSENCE_BLOCK.offset_of("bits") :])
    return b"".join(parts)


@dataclass(frozen=True, slots=True)
class DirectFiles:
    """Extents and sums, read past the page cache where the file system can."""

    extents_fd: int
    sums_fd: int

    def close(self) -> None:
        _close_all([self.extents_fd, self.sums_fd])


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
        _close_all(opened)
        raise StorageError(f"{folder} cannot be read: {error.strerror}.") from error
    return DirectFiles(extents_fd=opened[0], sums_fd=opened[1])


def superblock_whole(folder: Path) -> bool:
    """Whether both copies are; one that is being written is looked at again."""
    try:
        fd = os.open(folder / "superblock", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}.") from error
    try:
        return all(
            any(_whole(_read_direct(fd, at)) is not None for _look in range(SUPERBLOCK_LOOKS))
            for at in (0, SUPERBLOCK_BYTES)
        )
    finally:
        os.close(fd)


def table_whole(folder: Path) -> bool:
    """Whether the slot that the superblock names is what it says; True without one. Looked at again like the copies."""
    try:
        fd = os.open(folder / "superblock", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    except OSError as error:
        raise StorageError(f"{folder} cannot be read: {error.strerror}.") from error
    try:
        return any(_slot_whole(fd, folder) for _look in range(SUPERBLOCK_LOOKS))
    finally:
        os.close(fd)


def _slot_whole(fd: int, folder: Path) -> bool:
    fields = SUPERBLOCK.unpack(choose_superblock(_read_copies(fd), folder)[0])
    if fields.number("table_lsn") == 0:
        return True
    offset = TABLE_SLOTS_OFFSET + fields.number("table_slot") * RESERVATION_BYTES
    pages = range(offset, offset + RESERVATION_BYTES, SUPERBLOCK_BYTES)
    return crc32c(b"".join(_read_direct(fd, at) for at in pages)) == fields.number("table_check")


def _read_copies(fd: int) -> list[bytes]:
    return [_read_direct(fd, at) for at in (0, SUPERBLOCK_BYTES)]


def choose_superblock(copies: Sequence[bytes], folder: Path) -> tuple[bytes, bool]:
    """The copy that counts, and whether the other one is lost. Raises: DamagedData, UnknownFormat."""
    whole = [copy for copy in map(_whole, copies) if copy is not None]
    for copy in whole:
        _check_format(copy, folder)
    if not whole:
        raise DamagedData(
            f"Neither copy of {folder / 'superblock'} is whole.",
            hint="This replica cannot be used: replace it, the volume's other replicas have its data.",
        )
    return max(whole, key=lambda copy: SUPERBLOCK.unpack(copy).number("sequence")), len(whole) == 1


def _close_all(descriptors: list[int]) -> None:
    for fd in descriptors:
        os.close(fd)


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
    os.close(_open_absences(files.folder, size_bytes))
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


def delete_files(pool: Path, volume_id: VolumeId, wal_device: WalDevice | None = None) -> None:
    """Remove a replica for good; what is left half-way is removed by the next call.

    Raises: StorageError.
    """
    folder = pool / "volumes" / volume_id
    if not folder.is_dir():
        return
    leaving: list[ReplicaUuid] = []
    try:
        # Without its superblock no folder is a replica, whatever else is left of it.
        for superblock in folder.glob("*/superblock"):
            with suppress(DamagedData):
                leaving.append(uuid_of(superblock.parent))
            superblock.unlink()
        shutil.rmtree(folder)
        _sync_folder(folder.parent)
    except OSError as error:
        raise StorageError(
            f"The files in {folder} cannot be deleted: {error.strerror}.",
            hint="What is left of them is deleted after a start of the node on a disk that works.",
        ) from error
    # A ring that a crash leaves behind here is given back at the next start.
    if wal_device is not None:
        for replica in leaving:
            wal_device.free(replica)


def replica_bytes(replica_id: ReplicaId) -> bytes:
    """A replica id as superblocks and commands carry it."""
    return replica_id.encode().ljust(16, b"\0")


def replica_text(field: bytes) -> ReplicaId | None:
    text = field.rstrip(b"\0").decode()
    return ReplicaId(text) if text else None


def _whole(block: bytes) -> bytes | None:
    (check,) = struct.unpack_from("<I", block, SUPERBLOCK.offset_of("check"))
    at = SUPERBLOCK.offset_of("check")
    plain = block[:at] + bytes(4) + block[at + 4 :]
    if block[:8] != struct.pack("<Q", SUPERBLOCK_MAGIC) or crc32c(plain) != check:
        return None
    return block


def _check_format(copy: bytes, folder: Path) -> None:
    """Where magic, checksum, format and level stand is the same in every format. Raises: UnknownFormat."""
    ours = {
        "format": (int(SUPERBLOCK_FORMAT), int(SUPERBLOCK_FORMAT)),
        "feature_level": (FEATURE_LEVEL_MIN, FEATURE_LEVEL),
    }
    for field, (lowest, highest) in ours.items():
        (found,) = struct.unpack_from("<H", copy, SUPERBLOCK.offset_of(field))
        if not lowest <= found <= highest:
            what = field.replace("_", " ")
            read = f"{lowest} to {highest}" if lowest != highest else f"{highest}"
            raise UnknownFormat(
                f"{folder / 'superblock'} has {what} {found}, this version of sparrow reads {read}.",
                hint="Run the version that wrote it; there is no way to convert it yet. Nothing was changed.",
            )


def _read_direct(fd: int, offset: int) -> bytes:
    """One copy; zeros, which are no whole copy, for what cannot be read: the other one may be fine."""
    with mmap.mmap(-1, SUPERBLOCK_BYTES) as page:
        try:
            size = os.preadv(fd, [page], offset)
        except OSError:
            size = 0
        return page[:] if size == SUPERBLOCK_BYTES else bytes(SUPERBLOCK_BYTES)


def _write_superblock(path: Path, block: bytes) -> None:
    with path.open("wb") as file:
        # The slots of tables are allocated now: no checkpoint fails for want of their place.
        file.write((block * 2).ljust(SUPERBLOCK_FILE_BYTES, b"\0"))
        file.flush()
        os.fsync(file.fileno())


def _write_zeros(path: Path, size_bytes: int) -> None:
    """Written, not only allocated: a flush over allocated-only blocks costs twice as much for ever."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_DIRECT, 0o600)
    try:
        os.posix_fallocate(fd, 0, size_bytes)
        with mmap.mmap(-1, CHUNK_BYTES) as zeros:
            for offset in range(0, size_bytes, CHUNK_BYTES):
                os.pwritev(fd, [zeros], offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_extents(path: Path, size_bytes: int) -> None:
    with path.open("xb") as file:
        os.ftruncate(file.fileno(), size_bytes)
        os.fsync(file.fileno())


def _write_sums(path: Path, key: int, size_bytes: int) -> None:
    with path.open("xb", buffering=CHUNK_BYTES) as file:
        for block in blank_sums(key, size_bytes):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())


def blank_sums(key: int, size_bytes: int, *, first: int = 0) -> Iterator[bytes]:
    """Sums blocks of nothing but holes."""
    pages = size_bytes // PAGE_BYTES
    tail = bytes(SUMS_BLOCK.size - 16)
    for number in range(first, (pages + PAGES_PER_BLOCK - 1) // PAGES_PER_BLOCK):
        body = struct.pack("<IQ", SUMS_FORMAT, number) + tail
        check = crc32c(body, crc32c(struct.pack("<QQ", key, number)))
        yield struct.pack("<I", check) + body


def _sync_folder(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
