"""Files that are emptied for a copy, by a thread that nobody can stop."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, ReplicaId
from sparrow.dataplane.files import descriptors
from sparrow.dataplane.files.descriptors import ReplicaFiles
from tests.support.core_client import WAIT_S
from tests.support.core_cluster import DEMO, core_cluster
from tests.support.waiting import until

TERM = Term(epoch=Epoch(1), start=1)
PRIMARY = ReplicaId("r9")


class Emptying:
    """What empties files says that it has begun, and waits until it may."""

    def __init__(self) -> None:
        self.began, self.may_end = threading.Semaphore(0), threading.Event()
        self.ended: list[Path] = []
        self._really = descriptors.empty_files

    def __call__(self, files: ReplicaFiles) -> None:
        self.began.release()
        assert self.may_end.wait(WAIT_S)
        self._really(files)
        self.ended.append(files.folder)


@pytest.fixture
def emptying(monkeypatch: pytest.MonkeyPatch) -> Emptying:
    slow = Emptying()
    monkeypatch.setattr(descriptors, "empty_files", slow)
    return slow


async def test_files_are_not_emptied_by_two_at_once_when_the_first_who_asked_has_gone(
    emptying: Emptying,
) -> None:
    """The second would be told that its files are empty, and the first one's thread would empty what is copied then."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, TERM, PRIMARY)
        log = (await node.plane.status(DEMO)).log

        async def prepared() -> None:
            await node.plane.prepare_rebuild(DEMO, TERM, log, None)

        first = asyncio.create_task(prepared())
        await asyncio.to_thread(emptying.began.acquire)
        first.cancel()
        second = asyncio.create_task(prepared())

        async def decided() -> bool:
            # The answer to the command after it: the core has decided, and the files are what is waited for.
            return (await node.plane.status(DEMO)).log.last_lsn == 0

        await until(decided)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not await asyncio.to_thread(emptying.began.acquire, timeout=0.2)
        emptying.may_end.set()
        await second
        assert len(emptying.ended) == 2


async def test_files_that_are_emptied_are_deleted_when_that_has_ended(emptying: Emptying) -> None:
    """The volume may be made anew, here and with a replica of this name: the thread would open that one's files."""
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, TERM, PRIMARY)
        log = (await node.plane.status(DEMO)).log
        given_up = asyncio.create_task(node.plane.prepare_rebuild(DEMO, TERM, log, None))
        await asyncio.to_thread(emptying.began.acquire)
        given_up.cancel()
        deleting = asyncio.create_task(node.plane.delete_replica(DEMO))
        done, _ = await asyncio.wait([deleting], timeout=0.3)
        assert not done
        emptying.may_end.set()
        await deleting
        assert len(emptying.ended) == 1
