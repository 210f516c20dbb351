"""The copy of the master's store on a node: only ever newer, whole or not at all, and only of its own master."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
import structlog

from sparrow.base.errors import NotFound, RemoteProtocolError, StaleEpoch, StorageError, Unavailable
from sparrow.node.store_copy import DRAFT, FOLDER, StoreCopy
from sparrow.rpc.messages import BackupChunk, KeepCopyRequest

CLUSTER = "c" * 32


class Master:
    """What a node fetches from: pieces, and where they break off."""

    def __init__(self) -> None:
        self.generation, self.revision = 3, 7
        self.pieces = [b"one", b"two"]
        self.breaks_after: int | None = None
        self.fetched = 0
        self.heard = 3

    async def fetch(self) -> AsyncGenerator[BackupChunk]:
        self.fetched += 1
        for number, piece in enumerate(self.pieces):
            if number == self.breaks_after:
                raise Unavailable("the master is gone")
            yield BackupChunk(data=piece, master_generation=self.generation, revision=self.revision)


@pytest.fixture
def master() -> Master:
    return Master()


@pytest.fixture
def copy(tmp_path: Path, master: Master) -> StoreCopy:
    return StoreCopy(
        tmp_path,
        fetch=master.fetch,
        heard=lambda: master.heard,
        cluster_id=lambda: CLUSTER,
        log=structlog.get_logger(),
    )


def offer(generation: int = 3, revision: int = 7, cluster: str = CLUSTER) -> KeepCopyRequest:
    return KeepCopyRequest(cluster_id=cluster, master_generation=generation, revision=revision)


async def content(copy: StoreCopy) -> bytes:
    return b"".join([chunk.data async for chunk in copy.read()])


def files(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / FOLDER).iterdir())


async def test_what_is_offered_is_fetched_once_and_kept(
    tmp_path: Path, copy: StoreCopy, master: Master
) -> None:
    with pytest.raises(NotFound):
        await content(copy)
    assert copy.info().master_generation == 0
    info = await copy.keep(offer())
    assert (info.master_generation, info.revision) == (3, 7)
    assert await content(copy) == b"onetwo"
    await copy.keep(offer())
    await copy.keep(offer(revision=6))
    assert master.fetched == 1
    assert files(tmp_path) == ["store-3-7.db"]


async def test_a_newer_one_takes_its_place_also_by_generation(
    tmp_path: Path, copy: StoreCopy, master: Master
) -> None:
    await copy.keep(offer())
    master.generation, master.revision, master.heard = 4, 2, 4
    master.pieces = [b"new"]
    info = await copy.keep(offer(4, 1))
    assert (info.master_generation, info.revision) == (4, 2), "what came was newer than the offer"
    assert await content(copy) == b"new"
    assert files(tmp_path) == ["store-4-2.db"]


async def test_a_master_that_was_replaced_cannot_put_its_store_here(
    copy: StoreCopy, master: Master
) -> None:
    await copy.keep(offer())
    master.heard = 5
    with pytest.raises(StaleEpoch, match="generation 3 was replaced by 5"):
        await copy.keep(offer(3, 900))
    assert await content(copy) == b"onetwo"


async def test_another_clusters_master_is_refused(copy: StoreCopy) -> None:
    with pytest.raises(RemoteProtocolError, match="cluster_id"):
        await copy.keep(offer(cluster="d" * 32))


@pytest.mark.parametrize("breaks_after", [0, 1])
async def test_a_fetch_that_breaks_off_leaves_the_old_copy(
    tmp_path: Path, copy: StoreCopy, master: Master, breaks_after: int
) -> None:
    await copy.keep(offer())
    master.revision, master.pieces, master.breaks_after = 8, [b"xx", b"yy"], breaks_after
    with pytest.raises(Unavailable):
        await copy.keep(offer(revision=8))
    assert await content(copy) == b"onetwo"
    assert files(tmp_path) == ["store-3-7.db"]
    master.breaks_after = None
    await copy.keep(offer(revision=8))
    assert await content(copy) == b"xxyy"


async def test_what_comes_must_be_as_new_as_what_was_offered(
    copy: StoreCopy, master: Master
) -> None:
    await copy.keep(offer())
    with pytest.raises(RemoteProtocolError, match="was offered"):
        await copy.keep(offer(revision=9))
    master.pieces = []
    with pytest.raises(RemoteProtocolError, match="was offered"):
        await copy.keep(offer(revision=9))
    assert await content(copy) == b"onetwo"


async def test_what_a_crash_left_behind_is_no_copy(tmp_path: Path, copy: StoreCopy) -> None:
    """Between the new name and the end of the old one, or in the middle of a fetch."""
    folder = tmp_path / FOLDER
    folder.mkdir()
    (folder / "store-3-5.db").write_bytes(b"older")
    (folder / "store-3-6.db").write_bytes(b"newer")
    (folder / DRAFT).write_bytes(b"half")
    (folder / "store-9-9.db.tmp").write_bytes(b"no name of ours")
    assert await content(copy) == b"newer"
    await copy.keep(offer())
    assert files(tmp_path) == ["store-3-7.db", "store-9-9.db.tmp"]


async def test_two_offers_at_once_are_fetched_one_after_the_other(
    copy: StoreCopy, master: Master
) -> None:
    await asyncio.gather(copy.keep(offer()), copy.keep(offer()))
    assert master.fetched == 1


async def test_a_disk_that_does_not_take_it_is_an_error_with_its_place(
    tmp_path: Path, copy: StoreCopy
) -> None:
    (tmp_path / FOLDER).write_bytes(b"a file where the folder belongs")
    with pytest.raises(StorageError, match="master-copy cannot be written"):
        await copy.keep(offer())
