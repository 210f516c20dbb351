"""A term as primary drives its two machines: what they want done reaches the core in that order."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from sparrow.base.ids import VolumeId
from sparrow.formats.hello import Hello, LinkKind
from tests.support.lines import VOLUME, later
from tests.support.model_cluster import Cluster, play


def test_a_connection_that_is_given_up_while_it_is_made_never_gets_to_the_core() -> None:
    async def story(cluster: Cluster) -> None:
        a = cluster.node("a")
        volume = a.replicas.get(VOLUME)
        connect, ship = a.around.links.connect, a.dataplane.ship
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        reached: list[str] = []
        shipped: list[object] = []

        async def held_once(addr: str, hello: Hello, *, timeout_s: float) -> int:
            if hello.to_node == "nb" and hello.kind is LinkKind.SHIP:
                reached.append(addr)
                if len(reached) == 1:
                    await asyncio.shield(held)
            return await connect(addr, hello, timeout_s=timeout_s)

        async def noted(volume_id: VolumeId, slot: int, *more: Any, **named: Any) -> None:
            core = a.dataplane._volumes[volume_id]
            assert slot not in core.peers, "two links to one peer"
            shipped.append(named["link"])
            await ship(volume_id, slot, *more, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(a.around.links, "connect", held_once)
            patch.setattr(a.dataplane, "ship", noted)
            cluster.fabric.cut("na", "nb")
            await cluster.until(lambda: bool(reached))
            line = volume.line
            elsewhere = tuple(
                replace(one, data_addr="nb:other") if one.replica_id == "b" else one
                for one in line.members
            )
            cluster.master.mint(later(line, members=elsewhere))
            await cluster.until(lambda: len(reached) == 2 and bool(shipped))
            held.set_result(None)
            await cluster.idle(2.0)
        assert len(shipped) == 1, "the older one was never the core's"
        assert cluster.in_sync == "abc"
        await cluster.write("a", 1, b"one")

    play(story)
