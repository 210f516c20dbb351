"""What the core says of its volumes, all at once: the same as one by one, and nothing new while nothing happens."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sparrow.authority.evidence import PEER_HEARD_S
from tests.support.core_cluster import DEMO, core_cluster, page_of
from tests.support.needs import needs_io_uring
from tests.support.waiting import until

pytestmark = needs_io_uring()

REPORT = Path(__file__).parents[2] / "src" / "_native" / "control" / "report.pyx"


def test_the_core_and_the_evidence_agree_on_what_is_heard() -> None:
    assert f"HEARD_MS = {round(PEER_HEARD_S * 1000)} " in REPORT.read_text()


async def test_an_idle_volume_says_the_same_and_is_not_looked_at_again() -> None:
    async with core_cluster(nodes=3) as cluster:
        primary, *others = cluster.nodes
        await cluster.open_term(primary, followers=others)
        client = await cluster.connect(primary)
        assert (await client.write(0, page_of(0, 1))).status == 0

        async def applied() -> bool:
            status = await primary.plane.status(DEMO)
            acked = {peer.acked_lsn for peer in status.peers}
            return status.log.applied_lsn == status.log.last_lsn and acked == {status.log.last_lsn}

        await until(applied)

        async def settled() -> bool:
            before = (await primary.plane.statuses())[DEMO]
            await asyncio.sleep(0.05)
            return (await primary.plane.statuses())[DEMO] is before

        await until(settled)
        told = (await primary.plane.statuses())[DEMO]
        assert told == await primary.plane.status(DEMO)
        assert all(peer.silent_ms == 0 for peer in told.peers)
        assert (await client.write(1, page_of(1, 1))).status == 0
        after = (await primary.plane.statuses())[DEMO]
        assert after.log.last_lsn > told.log.last_lsn
        assert after.writes == told.writes + 1


async def test_a_closed_volume_is_not_in_the_list() -> None:
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        assert list(await node.plane.statuses()) == [DEMO]
        await node.plane.close_replica(DEMO)
        assert await node.plane.statuses() == {}
