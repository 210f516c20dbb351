"""Whom a node asks to repair what is damaged, and when it gives up."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from sparrow.base import events as names
from sparrow.base.ids import Lsn
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.node.mending import (
    LOST_AGAIN_S,
    LOST_TRIES,
    Mender,
    lost_pages,
    mend_batch,
    mend_sums,
)
from sparrow.ports.dataplane import BatchDamaged, SumsDamaged
from tests.support.lines import VOLUME, rid
from tests.support.model_cluster import Cluster, play


def test_a_damaged_block_is_rebuilt_from_the_first_peer_that_has_it() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        for node in ("na", "nb"):
            cluster.pools[node].files[VOLUME].damaged_sums.add(0)
        a = cluster.node("a")
        with capture_logs() as logs:
            assert await mend_sums(a.replicas.get(VOLUME), a.around, 0)
        files = cluster.pools["na"].files[VOLUME]
        assert not files.damaged_sums
        assert not files.lost
        events = [entry["event"] for entry in logs]
        assert events.index(names.SUMS_DAMAGED) < events.index(names.SUMS_REPAIRED)

    play(story)


def test_what_one_peer_lost_is_taken_from_another() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        cluster.pools["na"].files[VOLUME].damaged_sums.add(0)
        cluster.pools["nb"].files[VOLUME].lost.update(range(5))
        cluster.pools["nc"].files[VOLUME].lost.update(range(5, 9))
        a = cluster.node("a")
        assert await mend_sums(a.replicas.get(VOLUME), a.around, 0)
        assert not cluster.pools["na"].files[VOLUME].lost

    play(story)


def test_pages_that_nobody_has_a_sum_of_are_lost_at_once_and_no_others() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        cluster.pools["na"].files[VOLUME].damaged_sums.add(0)
        for node in ("nb", "nc"):
            cluster.pools[node].files[VOLUME].lost.update({3, 4})
        a = cluster.node("a")
        began = a.around.clock()
        with capture_logs() as logs:
            assert not await mend_sums(a.replicas.get(VOLUME), a.around, 0)
        assert cluster.pools["na"].files[VOLUME].lost == {3, 4}
        assert a.around.clock() - began < 0.5, "asking again would change nothing"
        (lost,) = [entry for entry in logs if entry["event"] == names.SUMS_LOST]
        assert lost["lost_pages"] == 2

    play(story)


def test_the_only_replica_gives_a_damaged_block_up_at_once() -> None:
    async def story(cluster: Cluster) -> None:
        for node in ("na", "nb", "nc"):
            cluster.pools[node].files[VOLUME].damaged_sums.add(0)
        a = cluster.node("a")
        volume = a.replicas.get(VOLUME)
        pages = min(PAGES_PER_BLOCK, volume.size_bytes // 4096)
        assert not await mend_sums(volume, a.around, 0)
        assert len(cluster.pools["na"].files[VOLUME].lost) == pages

    play(story)


def test_a_peer_that_cannot_be_asked_now_is_waited_for() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        for node in ("na", "nb"):
            cluster.pools[node].files[VOLUME].damaged_sums.add(0)
        cluster.master.cut("na")  # so that it stays in the line
        cluster.kill("c")
        a = cluster.node("a")
        mending = asyncio.ensure_future(mend_sums(a.replicas.get(VOLUME), a.around, 0))
        await cluster.idle(1.0)
        assert not mending.done()
        await cluster.up("c")
        assert await mending
        assert not cluster.pools["na"].files[VOLUME].lost

    play(story)


@pytest.mark.parametrize("what", ["sums", "batch"])
def test_nothing_is_given_up_before_a_start_knows_whom_to_ask(what: str) -> None:
    """What rotted while the node was down is found as its replicas open; the line of before knows of nobody else."""

    async def story(cluster: Cluster) -> None:
        for page in range(5):
            await cluster.write("a", page, bytes([page]))
        c, files = cluster.node("c"), cluster.pools["nc"].files[VOLUME]
        volume = c.replicas.get(VOLUME)
        line, volume.heard_master = volume.line, False
        volume.known_line = replace(line, in_sync=(rid("c"),))
        if what == "sums":
            files.damaged_sums.add(0)
            mending = asyncio.ensure_future(mend_sums(volume, c.around, 0))
        else:
            files.damaged_lsns.add(3)
            damaged = BatchDamaged(volume_id=VOLUME, first_lsn=Lsn(3), last_lsn=Lsn(3))
            mending = asyncio.ensure_future(mend_batch(volume, c.around, damaged))
        await cluster.idle(0.2)
        assert not mending.done()
        volume.known_line = line
        assert await mending
        assert not files.damaged_sums
        assert not files.damaged_lsns
        assert not files.lost

    play(story)


def test_who_lost_sums_while_it_was_alone_gets_them_when_others_are_in_sync_again() -> None:
    """However long that takes."""

    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        c, files = cluster.node("c"), cluster.pools["nc"].files[VOLUME]
        volume = c.replicas.get(VOLUME)
        mender = Mender(c.around, find=c.replicas.find, spawn=c._spawn)
        line = volume.line
        volume.known_line = replace(line, in_sync=(rid("c"),))
        files.damaged_sums.add(0)
        assert not await mender.outcome(SumsDamaged(volume_id=VOLUME, block=0, errno=0))
        assert files.lost
        counts = mender.repairs(VOLUME)
        assert (counts.found, counts.repaired, counts.unrepairable) == (1, 0, 1)
        await cluster.idle(LOST_AGAIN_S * (LOST_TRIES + 1))
        volume.known_line = line
        await cluster.until(lambda: not files.lost)
        assert (counts.found, counts.repaired, counts.unrepairable) == (1, 1, 0)

    play(story)


def test_a_block_that_is_damaged_once_more_is_repaired_although_it_lacks_pages_still() -> None:
    """They are asked for every few seconds; what waits for the block waits for two at most."""

    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        c, files = cluster.node("c"), cluster.pools["nc"].files[VOLUME]
        others = [cluster.pools[name].files[VOLUME] for name in ("na", "nb")]
        mender = Mender(c.around, find=c.replicas.find, spawn=c._spawn)
        event = SumsDamaged(volume_id=VOLUME, block=0, errno=0)
        for other in others:
            other.lost.add(3)
        files.damaged_sums.add(0)
        assert not await mender.outcome(event)
        for other in others:
            other.lost.clear()
        files.damaged_sums.add(0)
        assert await mender.outcome(event)
        assert not files.damaged_sums

    play(story)


def test_a_repair_goes_on_although_who_waited_for_it_does_not() -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        c, files = cluster.node("c"), cluster.pools["nc"].files[VOLUME]
        repairs: list[asyncio.Task[None]] = []

        def spawn(work: Coroutine[Any, Any, None], _name: str) -> None:
            repairs.append(asyncio.ensure_future(work))

        mender = Mender(c.around, find=c.replicas.find, spawn=spawn)
        files.damaged_sums.add(0)
        mender.outcome(SumsDamaged(volume_id=VOLUME, block=0, errno=0)).cancel()
        await repairs[0]
        assert not files.damaged_sums

    play(story)


def test_lost_pages_are_read_from_the_states_of_a_block() -> None:
    block = bytearray(4096)
    block[16] = 0b11_10_01_11
    block[17] = 0b00_00_11_00
    assert lost_pages(bytes(block)) == [0, 3, 5]


def test_a_damaged_batch_is_put_back_from_the_peer_that_has_it() -> None:
    async def story(cluster: Cluster) -> None:
        for page in range(5):
            await cluster.write("a", page, bytes([page]))
        for node in ("na", "nb"):
            cluster.pools[node].files[VOLUME].damaged_lsns.add(3)
        a = cluster.node("a")
        damaged = BatchDamaged(volume_id=VOLUME, first_lsn=Lsn(3), last_lsn=Lsn(3))
        with capture_logs() as logs:
            assert await mend_batch(a.replicas.get(VOLUME), a.around, damaged)
        assert not cluster.pools["na"].files[VOLUME].damaged_lsns
        (repaired,) = [entry for entry in logs if entry["event"] == names.BATCH_REPAIRED]
        assert repaired["peer"] == "c"

    play(story)


def test_a_batch_that_nobody_has_is_let_go() -> None:
    async def story(cluster: Cluster) -> None:
        for page in range(5):
            await cluster.write("a", page, bytes([page]))
        for node in ("na", "nb", "nc"):
            cluster.pools[node].files[VOLUME].damaged_lsns.add(3)
        a = cluster.node("a")
        damaged = BatchDamaged(volume_id=VOLUME, first_lsn=Lsn(3), last_lsn=Lsn(3))
        assert not await mend_batch(a.replicas.get(VOLUME), a.around, damaged)
        assert cluster.pools["na"].files[VOLUME].log.base_lsn == 3, "the log begins behind it"

    play(story)
