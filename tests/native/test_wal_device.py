"""Logs on a raw device: who has which ring, through crashes and damage, and what is refused."""

from __future__ import annotations

import itertools
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sparrow.base.errors import ConfigError, SparrowError, StorageError
from sparrow.base.ids import Epoch, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane import at_rest, wal_device
from sparrow.dataplane.files import descriptors, folders
from sparrow.dataplane.machine import KernelMachine
from sparrow.dataplane.wal_device import WalDevice
from sparrow.formats.wal import BATCH
from sparrow.formats.wal_device import WAL_DEVICE_RINGS_AT, WAL_DEVICE_TABLE_BYTES
from sparrow.ports.dataplane import BatchDamaged
from tests.support.core_client import page_of
from tests.support.core_cluster import DEMO, core_cluster
from tests.support.needs import needs_root
from tests.support.places import disk_directory, loop_device
from tests.support.ship_peer import link, take_batches

pytestmark = needs_root()

N1 = NodeId("n1")
MIB = 1 << 20
#: In batches of 33 blocks each, and of two: their sum is beyond the 4096 blocks of a ring.
BIG_BYTES = 118 * 32 * 4096
SMALL_BYTES = 200 * 4096
#: Batches kept for peers.
IN_MEMORY = 64
#: Slot and node key of a peer that a test plays.
PEER = 5
A, B, C = (ReplicaUuid(letter * 32) for letter in "abc")


@pytest.fixture
def path() -> Iterator[Path]:
    with disk_directory("waldev") as place, loop_device(place, "wal", 40 * MIB) as device:
        yield device


@contextmanager
def opened(path: Path, node_id: NodeId = N1) -> Iterator[WalDevice]:
    device = WalDevice.open(path, node_id)
    try:
        yield device
    finally:
        device.close()


def overwrite(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def test_rings_are_found_again_and_a_gap_is_used_again(path: Path) -> None:
    with opened(path) as device:
        first = device.allocate(A, 16 * MIB)
        second = device.allocate(B, 16 * MIB)
        assert (first.offset, second.offset) == (
            WAL_DEVICE_RINGS_AT,
            WAL_DEVICE_RINGS_AT + 16 * MIB,
        )
        device.free(A)
        named = device.uuid
    with opened(path) as device:
        assert device.uuid == named
        assert device.rings == (second,)
        assert device.allocate(C, 16 * MIB).offset == first.offset


def test_a_new_ring_holds_nothing_of_an_old_one(path: Path) -> None:
    """Batches of a replica that is gone must not be there to be found."""
    with opened(path) as device:
        ring = device.allocate(A, 2 * MIB)
        device.free(A)
    overwrite(path, ring.offset, b"x" * 2 * MIB)
    with opened(path) as device:
        assert device.allocate(B, 2 * MIB).offset == ring.offset
    with path.open("rb") as file:
        file.seek(ring.offset)
        assert not any(file.read(2 * MIB))


def test_a_device_without_room_says_so_and_gives_nothing_away(path: Path) -> None:
    with opened(path) as device:
        device.allocate(A, 16 * MIB)
        with pytest.raises(StorageError, match="no room for a log of 32 MiB"):
            device.allocate(B, 32 * MIB)
        assert [ring.uuid for ring in device.rings] == [A]


@pytest.mark.parametrize("copy", [0, 1])
def test_one_damaged_copy_of_the_table_is_survived(path: Path, copy: int) -> None:
    with opened(path) as device:
        ring = device.allocate(A, 16 * MIB)
    overwrite(path, copy * WAL_DEVICE_TABLE_BYTES + 300, b"\xff" * 16)
    with opened(path) as device:
        assert device.rings == (ring,)


@pytest.mark.parametrize("written", [0, 1])
def test_a_write_of_the_table_that_was_cut_leaves_the_old_or_the_new(
    path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """It fails at its first copy, or at its second."""
    real, copies = os.pwritev, itertools.count()

    def cut(fd: int, pages: list[mmap.mmap], at: int) -> int:
        if at <= WAL_DEVICE_TABLE_BYTES and next(copies) >= written:
            raise OSError(5, "cut")
        return real(fd, pages, at)

    with opened(path) as device:
        monkeypatch.setattr(wal_device.os, "pwritev", cut)
        with pytest.raises(StorageError, match="failed"):
            device.allocate(A, MIB)
        monkeypatch.undo()
        assert device.rings == ()
    with opened(path) as device:
        assert [ring.uuid for ring in device.rings] in ([], [A])


def test_somebody_elses_data_is_left_alone(path: Path) -> None:
    overwrite(path, 512, b"partition table")
    with pytest.raises(ConfigError, match="not sparrow's") as caught:
        WalDevice.open(path, N1)
    assert "dd if=/dev/zero" in caught.value.hint
    with path.open("rb") as file:
        assert file.read(600)[512:527] == b"partition table"


def test_a_device_is_one_nodes_and_one_process_has_it(path: Path) -> None:
    with (
        opened(path),
        pytest.raises(ConfigError, match="cannot be opened: Device or resource busy"),
    ):
        WalDevice.open(path, N1)
    with pytest.raises(ConfigError, match="belongs to node n1, not to n2"):
        WalDevice.open(path, NodeId("n2"))


def test_a_device_is_waited_for_until_nothing_is_under_way_to_it(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pool was copied elsewhere, say, so that nothing else says that the process before has left writes to it."""
    monkeypatch.setattr(at_rest, "TELL_S", 0.0)
    with opened(path) as device:
        machine = KernelMachine(tmp_path, name="test", wal_device=device)
    told: list[Path] = []

    def tell(awaited: Path) -> None:
        told.append(awaited)
        machine.close()

    WalDevice.open(path, N1, tell=tell).close()
    assert told == [path]


def test_a_file_is_no_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(4 * MIB))
    for wrong in (tmp_path / "file", tmp_path / "nothing"):
        with pytest.raises(SparrowError, match="WAL device"):
            WalDevice.open(wrong, N1)


def test_a_ring_that_a_crash_left_is_given_back(path: Path, tmp_path: Path) -> None:
    with opened(path) as device, disk_directory("pool") as pool:
        own = folders.format_replica(
            pool,
            VolumeId("v"),
            ReplicaId("r1"),
            size_bytes=64 * MIB,
            block_size=4096,
            wal_device=device,
        )
        device.allocate(B, MIB)  # its superblock was never written
        folders.reclaim_rings(pool, device)
        assert [ring.uuid for ring in device.rings] == [own]
        folders.delete_files(pool, VolumeId("v"), device)
        assert device.rings == ()


def test_nothing_is_given_back_while_a_replica_cannot_say_who_it_is(path: Path) -> None:
    with opened(path) as device, disk_directory("pool") as pool:
        own = folders.format_replica(
            pool,
            VolumeId("v"),
            ReplicaId("r1"),
            size_bytes=64 * MIB,
            block_size=4096,
            wal_device=device,
        )
        overwrite(pool / "volumes" / "v" / "r1" / "superblock", 0, bytes(8192))
        folders.reclaim_rings(pool, device)
        assert [ring.uuid for ring in device.rings] == [own]


def test_without_its_device_a_replica_does_not_open(path: Path) -> None:
    with disk_directory("pool") as pool:
        with opened(path) as device:
            folders.format_replica(
                pool,
                VolumeId("v"),
                ReplicaId("r1"),
                size_bytes=64 * MIB,
                block_size=4096,
                wal_device=device,
            )
        with pytest.raises(StorageError, match="which this node does not have") as caught:
            descriptors.open_files(folders.find_replica(pool, VolumeId("v")))
        assert "--wal-device" in caught.value.hint


async def test_a_core_writes_and_reads_its_log_there(path: Path) -> None:
    """More than the ring holds, then an orderly end and another start."""
    with opened(path) as device:
        async with core_cluster(nodes=1, wal_device=device) as cluster:
            (node,) = cluster.nodes
            await cluster.open_term(node)
            load = await cluster.load(node, pages=range(2048), depth=8, run=16)
            await load.wait_written(24 * MIB)
            await load.stop()
            assert load.failed is None
            await node.plane.close_replica(DEMO)
            report = await node.plane.open_replica(DEMO)
            assert report.damaged_after_lsn is None
            await node.plane.begin_term(DEMO, Epoch(2))
            await cluster.set_needed(node, [])
            await node.plane.commit_inherited(DEMO)
            for start, version in sorted(load.acked.items())[::7]:
                assert await cluster.read_page(node, start) == page_of(start, version)
            assert not (node.files() / "wal").exists()


async def test_a_peer_is_fed_across_the_end_of_a_ring(path: Path) -> None:
    """The batches behind the last one of a ring lie at its beginning; the device goes on with another ring."""
    with opened(path) as device:
        async with core_cluster(nodes=1, wal_device=device) as cluster:
            (node,) = cluster.nodes
            await cluster.open_term(node)
            load = await cluster.load(node, pages=range(4096), depth=1, run=32, limit=BIG_BYTES)
            await load.wait_written(BIG_BYTES)
            await load.stop()
            head = (await node.plane.status(DEMO)).log.last_lsn
            load = await cluster.load(node, pages=range(256), depth=1, limit=SMALL_BYTES)
            await load.wait_written(SMALL_BYTES)
            await load.stop()
            last = (await node.plane.status(DEMO)).log.last_lsn
            with link() as peer:
                await node.plane.ship(DEMO, PEER, PEER, peer.theirs, joined_lsn=head, rebuild=None)
                assert (await take_batches(peer, head, until_lsn=last))[0] == last
                assert not node.heard(BatchDamaged)
            (ring,) = device.rings
            with path.open("rb") as file:
                file.seek(ring.offset)
                first = BATCH.unpack(file.read(BATCH.size)).number("first_lsn")
            # Neither was it there before, nor was it in memory for the peer.
            assert head < first < last - IN_MEMORY
