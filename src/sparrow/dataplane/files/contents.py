"""What the files of a replica that holds nothing have in them, and how long they are for a volume's size."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sparrow._native.crc import crc32c
from sparrow.base.constants import PAGE_BYTES
from sparrow.formats.sums import PAGES_PER_BLOCK, SUMS_BLOCK

WAL_BYTES_MIN: Final = 16 << 20
WAL_BYTES_MAX: Final = 256 << 20
CHUNK_BYTES: Final = 1 << 20
SUMS_FORMAT: Final = 1


def wal_bytes_for(size_bytes: int) -> int:
    """A sixteenth of the volume, within bounds, whole blocks."""
    wanted = min(max(size_bytes // 16, WAL_BYTES_MIN), WAL_BYTES_MAX)
    return wanted // CHUNK_BYTES * CHUNK_BYTES


def write_zeros(path: Path, size_bytes: int) -> None:
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


def write_extents(path: Path, size_bytes: int) -> None:
    with path.open("xb") as file:
        os.ftruncate(file.fileno(), size_bytes)
        os.fsync(file.fileno())


def write_sums(path: Path, key: int, size_bytes: int) -> None:
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
