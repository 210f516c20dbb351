"""Files of another version are told apart from damaged ones, and left as they are."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from sparrow.base.errors import ConfigError, DamagedData, UnknownFormat
from sparrow.base.ids import ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.files.folders import delete_files, reclaim_rings
from sparrow.dataplane.files.superblock import blank_superblock, choose_superblock
from sparrow.dataplane.machine import KernelMachine
from sparrow.dataplane.native.lines import decode_saved
from sparrow.dataplane.wal_device import Ring, WalDevice
from sparrow.formats.crc32c import crc32c
from sparrow.formats.superblock import SUPERBLOCK
from tests.support.places import disk_directory

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


@pytest.mark.parametrize("blob", [b"{", b"{}", b'{"line": "{}", "pending": []}', b"[]"])
def test_a_line_of_another_version_is_no_damage(blob: bytes) -> None:
    """Its superblock's checksum says that it is what was written: the files wait for the version that reads it."""
    with pytest.raises(UnknownFormat, match="not one that this version of sparrow reads"):
        decode_saved(blob)


class Rings(WalDevice):
    """A device with the ring of one replica, and what is done to it."""

    def __init__(self) -> None:
        super().__init__(Path("/dev/wal"), -1, -1, 1 << 30)
        self._rings = (Ring(uuid=ReplicaUuid("ab" * 16), offset=1 << 20, size=16 << 20),)
        self.kept: list[list[ReplicaUuid]] = []
        self.freed: list[ReplicaUuid] = []

    def keep_only(self, replicas: Iterable[ReplicaUuid]) -> None:
        self.kept.append(list(replicas))

    def free(self, replica: ReplicaUuid) -> None:
        self.freed.append(replica)


@pytest.fixture
def scratch() -> Iterator[Path]:
    with disk_directory("format") as directory:
        yield directory


def made(pool: Path, *copies: bytes) -> Path:
    folder = pool / "volumes" / "demo" / "r1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "superblock").write_bytes(b"".join(copies))
    return folder


def test_files_of_another_version_keep_every_ring_and_can_be_deleted(scratch: Path) -> None:
    folder = made(scratch, copy(format=2), copy(format=2))
    device = Rings()
    reclaim_rings(scratch, device)
    assert device.kept == [], "which ring is its own nobody can tell"
    delete_files(scratch, VolumeId("demo"), device)
    assert not folder.parent.exists()
    assert device.freed == [], "at the next start"


def test_a_pool_that_is_not_mounted_gives_no_ring_away(scratch: Path) -> None:
    device = Rings()
    with pytest.raises(ConfigError, match="holds logs of 1 replicas"):
        reclaim_rings(scratch, device)
    assert device.kept == []
    made(scratch, copy(), copy())
    reclaim_rings(scratch, device)
    assert device.kept == [[ReplicaUuid(bytes(range(16)).hex())]]


def test_what_was_put_aside_under_no_name_of_ours_is_not_looked_at(scratch: Path) -> None:
    """One such name among its slots, and the master would take no heartbeat of this node."""
    folder = made(scratch, copy(), copy())
    for aside in ("demo~", "demo (old)", "x" * 64):
        shutil.copytree(folder.parent, scratch / "volumes" / aside)
    (scratch / "volumes" / "other").mkdir()
    folder.rename(scratch / "volumes" / "other" / "r1 old")
    made(scratch, copy(), copy())
    machine = KernelMachine(scratch, name="test")
    assert machine.replicas() == {VolumeId("demo"): ReplicaId("r1")}
    machine.close()
