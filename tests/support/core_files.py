"""The files of a closed replica of a core in this process: batches of its log, its superblock; damaged, and copied."""

from __future__ import annotations

import os
import shutil
import struct
from dataclasses import dataclass
from pathlib import Path

from sparrow.base.constants import PAGE_BYTES as PAGE
from sparrow.base.ids import VolumeId
from sparrow.formats.crc32c import crc32c
from sparrow.formats.layout import Record
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.formats.wal import BATCH


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """A batch in a log file."""

    offset: int
    size: int
    fields: Record

    @property
    def first_lsn(self) -> int:
        return self.fields.number("first_lsn")

    @property
    def last_lsn(self) -> int:
        return self.first_lsn + self.fields.number("entry_count") - 1


def batches(files: Path) -> list[Batch]:
    """The batches of a closed replica's log, oldest first, found as recovery finds them."""
    log = (files / "wal").read_bytes()
    head = superblock(files)
    at, lsn, parent = head.number("tail_offset"), head.number("tail_lsn"), head.number("tail_check")
    found: list[Batch] = []
    while True:
        for offset in dict.fromkeys((at, 0)):
            fields = BATCH.unpack(log[offset : offset + BATCH.size].ljust(BATCH.size, b"\0"))
            if fields.number("first_lsn") == lsn + 1 and fields.number("parent") == parent:
                size = (fields.number("header_blocks") + fields.number("page_count")) * PAGE
                found.append(Batch(offset=offset, size=size, fields=fields))
                at, lsn, parent = offset + size, found[-1].last_lsn, fields.number("check")
                break
        else:
            return found


def superblock(files: Path) -> Record:
    """Copy 0."""
    return SUPERBLOCK.unpack((files / "superblock").read_bytes()[:SUPERBLOCK_BYTES])


def flip_bit(file: Path, offset: int) -> None:
    """Damage one byte on the disk, behind everybody's back and cache."""
    with file.open("r+b") as opened:
        (byte,) = os.pread(opened.fileno(), 1, offset)
        os.pwrite(opened.fileno(), bytes([byte ^ 0x10]), offset)
        os.fsync(opened.fileno())


def reworded(batch: bytes, offset: int, value: int) -> bytes:
    """The batch with another number (u64) in its header, and the checksum that goes with it."""
    head = bytearray(batch[:PAGE])
    struct.pack_into("<Q", head, offset, value)
    struct.pack_into("<I", head, BATCH.offset_of("check"), 0)
    struct.pack_into("<I", head, BATCH.offset_of("check"), crc32c(bytes(head)))
    return bytes(head) + batch[PAGE:]


def reword_superblock(files: Path, copy: int, **fields: int) -> None:
    """One copy of a closed replica's superblock with other numbers (u64), and the checksum that goes with them."""
    with (files / "superblock").open("r+b") as opened:
        block = bytearray(os.pread(opened.fileno(), SUPERBLOCK_BYTES, copy * SUPERBLOCK_BYTES))
        for name, value in fields.items():
            struct.pack_into("<Q", block, SUPERBLOCK.offset_of(name), value)
        struct.pack_into("<I", block, SUPERBLOCK.offset_of("check"), 0)
        struct.pack_into("<I", block, SUPERBLOCK.offset_of("check"), crc32c(bytes(block)))
        os.pwrite(opened.fileno(), block, copy * SUPERBLOCK_BYTES)
        os.fsync(opened.fileno())


def copy_replica(source: Path, pool: Path, name: str) -> VolumeId:
    """A replica's files under another volume's name; what they hold names the volume they are of.

    The superblock first, as a crash leaves it: the other files may be newer than what it says of them.
    """
    copy = pool / "volumes" / name / source.name
    copy.mkdir(parents=True)
    shutil.copyfile(source / "superblock", copy / "superblock")
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("superblock"), dirs_exist_ok=True)
    return VolumeId(name)


def copy_log(source: Path, pool: Path, copy: VolumeId) -> Path:
    """The log alone once more into a copy made before: a crash before anything else was written. Answers its folder."""
    files = pool / "volumes" / copy / source.name
    shutil.copyfile(source / "wal", files / "wal")
    return files
