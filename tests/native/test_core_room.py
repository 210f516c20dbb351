"""How many pages a pool still takes is told to the core when that may be news, and not every second for nothing."""

from __future__ import annotations

from typing import Any

import pytest

from sparrow.base.errors import Unavailable
from sparrow.dataplane.native import room as native_room
from tests.support.core_client import page_of
from tests.support.core_cluster import core_cluster
from tests.support.waiting import until

LOOK_S = 0.01


async def test_room_is_told_again_when_it_changes_or_a_volume_has_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_room, "HEADROOM_EVERY_S", LOOK_S)
    async with core_cluster(nodes=1) as cluster:
        (node,) = cluster.nodes
        await cluster.open_term(node)
        client = await cluster.connect(node)
        looks, told, room, fails = [0], [0], [1 << 20], [False]
        send = node.plane._send

        def count_look(_files: object) -> int:
            looks[0] += 1
            return room[0]

        async def count_told(command: str, *rest: Any, **more: Any) -> Any:
            if command == "set_headroom" and fails[0]:
                fails[0] = False
                raise Unavailable("the mailbox is full")
            told[0] += command == "set_headroom"
            return await send(command, *rest, **more)

        monkeypatch.setattr(node.plane._machine, "room_pages", count_look)
        monkeypatch.setattr(node.plane, "_send", count_told)

        async def many_looks() -> None:
            seen = looks[0]
            await until(lambda: looks[0] >= seen + 10)

        async def rest() -> int:
            """How often it was told before nothing more was told in many looks."""
            while True:
                await node.plane.statuses()
                before = told[0]
                await many_looks()
                if told[0] == before:
                    return before

        before = await rest()
        # A write takes room off in the core at once; whether the file system gave any shows later, if at all.
        assert (await client.write(1, page_of(1, 1))).status == 0
        await node.plane.statuses()
        await until(lambda: told[0] > before)
        before = await rest()
        room[0] -= 1
        await until(lambda: told[0] > before)
        before = await rest()
        # What could not be told is told at the next look, though nothing changes any more.
        fails[0] = True
        room[0] -= 1
        await until(lambda: not fails[0])
        await until(lambda: told[0] > before)
