"""Files of another version are told apart from damaged ones, and left as they are."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from sparrow.base.errors import DamagedData, UnknownFormat
from sparrow.base.ids import ReplicaId, VolumeId
from sparrow.dataplane.files.superblock import blank_superblock, choose_superblock
from sparrow.formats.crc32c import crc32c
from sparrow.formats.superblock import SUPERBLOCK

FOLDER = Path("/pool/volumes/demo/r1")


def copy(**changed: int) -> bytes:
    """A superblock whose 16-bit fields are changed, whole."""
    block = bytearray(
        blank_superblock(
            VolumeId("demo"),
            ReplicaId("r1"),
            bytes(range(16)),
            size_bytes=1 << 20,
            block_size=4096,
            wal_bytes=16 << 20,
        )
    )
    for field, value in changed.items():
        struct.pack_into("<H", block, SUPERBLOCK.offset_of(field), value)
    at = SUPERBLOCK.offset_of("check")
    struct.pack_into("<I", block, at, 0)
    struct.pack_into("<I", block, at, crc32c(bytes(block)))
    return bytes(block)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"format": 2}, "format 2, this version of sparrow reads 1"),
        ({"feature_level": 9}, "level 9"),
    ],
)
def test_a_superblock_of_another_version_is_refused_by_name(
    changed: dict[str, int], said: str
) -> None:
    for copies in ([copy(**changed), copy(**changed)], [copy(), copy(**changed)]):
        with pytest.raises(UnknownFormat, match=said) as refused:
            choose_superblock(copies, FOLDER)
        assert "Run the version that wrote it" in refused.value.hint


def test_damage_is_no_other_version() -> None:
    torn = bytearray(copy(format=2))
    torn[100] ^= 1
    assert choose_superblock([copy(), bytes(torn)], FOLDER) == (copy(), True)
    with pytest.raises(DamagedData):
        choose_superblock([bytes(torn), bytes(torn)], FOLDER)
