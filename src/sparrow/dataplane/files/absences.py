"""The absence maps of a replica as they lie in their file: made with room for all, read when it is opened."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable
from pathlib import Path

from sparrow._native.crc import crc32c
from sparrow.formats.absences import (
    ABSENCE_BLOCK,
    ABSENCE_FORMAT,
    ABSENCE_ROW,
    ABSENCES_MAX,
    absence_blocks,
)
from sparrow.formats.layout import Record
from sparrow.formats.superblock import SUPERBLOCK


def open_absences(folder: Path, size_bytes: int) -> int:
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
