"""A replica's superblock: two copies of which one counts, the slots behind them, and the words in it.

The core writes it (``_native/wal/superblock.pyx``); here it is made, read and chosen at an opening, and
looked at by scrubs.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sparrow._native.crc import crc32c
from sparrow.base.constants import FEATURE_LEVEL, FEATURE_LEVEL_MIN
from sparrow.base.errors import DamagedData, StorageError, UnknownFormat
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId
from sparrow.formats.reservations import RESERVATION_BYTES
from sparrow.formats.superblock import (
    STATE_CLEAN,
    SUPERBLOCK,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_FILE_BYTES,
    SUPERBLOCK_FORMAT,
    SUPERBLOCK_MAGIC,
    TABLE_SLOTS_OFFSET,
)

#: A copy is taken for damaged when it is so every time of these.
SUPERBLOCK_LOOKS: Final = 3


def volume_key(volume_id: VolumeId) -> int:
    """The hash that names a volume in batches and frames."""
    return int.from_bytes(hashlib.sha256(volume_id.encode()).digest()[:8], "little")


def replica_bytes(replica_id: ReplicaId) -> bytes:
    """A replica id as superblocks and commands carry it."""
    return replica_id.encode().ljust(16, b"\0")


def replica_text(field: bytes) -> ReplicaId | None:
    text = field.rstrip(b"\0").decode()
    return ReplicaId(text) if text else None


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
            "given_back": 0,
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


def write_superblock(path: Path, block: bytes) -> None:
    with path.open("wb") as file:
        # The slots of tables are allocated now: no checkpoint fails for want of their place.
        file.write((block * 2).ljust(SUPERBLOCK_FILE_BYTES, b"\0"))
        file.flush()
        os.fsync(file.fileno())


def make_list_places(path: Path) -> None:
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


def read_copies(fd: int) -> list[bytes]:
    return [_read_direct(fd, at) for at in (0, SUPERBLOCK_BYTES)]


def _read_direct(fd: int, offset: int) -> bytes:
    """One copy; zeros, which are no whole copy, for what cannot be read: the other one may be fine."""
    with mmap.mmap(-1, SUPERBLOCK_BYTES) as page:
        try:
            size = os.preadv(fd, [page], offset)
        except OSError:
            size = 0
        return page[:] if size == SUPERBLOCK_BYTES else bytes(SUPERBLOCK_BYTES)


def uuid_of(folder: Path) -> ReplicaUuid:
    """Which replica the files in a folder are.

    Raises:
        DamagedData: no copy of its superblock is whole.
        OSError: it cannot be opened.
        UnknownFormat: another version wrote it.
    """
    fd = os.open(folder / "superblock", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
    try:
        best, _ = choose_superblock(read_copies(fd), folder)
    finally:
        os.close(fd)
    return ReplicaUuid(SUPERBLOCK.unpack(best).blob("uuid").hex())


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
    fields = SUPERBLOCK.unpack(choose_superblock(read_copies(fd), folder)[0])
    if fields.number("table_lsn") == 0:
        return True
    offset = TABLE_SLOTS_OFFSET + fields.number("table_slot") * RESERVATION_BYTES
    pages = range(offset, offset + RESERVATION_BYTES, SUPERBLOCK_BYTES)
    return crc32c(b"".join(_read_direct(fd, at) for at in pages)) == fields.number("table_check")
