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


async def test_files_are_not_emptied_by_two_at_once_when_the_first_who_asked_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second would be told that its files are empty, and the first one's thread would empty what is copied then."""
    began, may_end, ended = threading.Semaphore(0), threading.Event(), list[Path]()
    really = descriptors.empty_files

    def slow(files: ReplicaFiles) -> None:
        began.release()
        assert may_end.wait(WAIT_S)
        really(files)
        ended.append(files.folder)

    monkeypatch.setattr(descriptors, "empty_files", slow)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, TERM, PRIMARY)
        log = (await node.plane.status(DEMO)).log

        async def prepared() -> None:
            await node.plane.prepare_rebuild(DEMO, TERM, log, None)

        first = asyncio.create_task(prepared())
        await asyncio.to_thread(began.acquire)
        first.cancel()
        second = asyncio.create_task(prepared())

        async def decided() -> bool:
            # The answer to the command after it: the core has decided, and the files are what is waited for.
            return (await node.plane.status(DEMO)).log.last_lsn == 0

        await until(decided)
        for _ in range(100):
            await asyncio.sleep(0)
        assert not await asyncio.to_thread(began.acquire, timeout=0.2)
        may_end.set()
        await second
        assert len(ended) == 2


async def test_files_that_are_emptied_are_deleted_when_that_has_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The volume may be made anew, here and with a replica of this name: the thread would open that one's files."""
    began, may_end, ended = threading.Semaphore(0), threading.Event(), list[Path]()
    really = descriptors.empty_files

    def slow(files: ReplicaFiles) -> None:
        began.release()
        assert may_end.wait(WAIT_S)
        really(files)
        ended.append(files.folder)

    monkeypatch.setattr(descriptors, "empty_files", slow)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await node.plane.fence(DEMO, TERM, PRIMARY)
        log = (await node.plane.status(DEMO)).log
        given_up = asyncio.create_task(node.plane.prepare_rebuild(DEMO, TERM, log, None))
        await asyncio.to_thread(began.acquire)
        given_up.cancel()
        deleting = asyncio.create_task(node.plane.delete_replica(DEMO))
        done, _ = await asyncio.wait([deleting], timeout=0.3)
        assert not done
        may_end.set()
        await deleting
        assert len(ended) == 1
