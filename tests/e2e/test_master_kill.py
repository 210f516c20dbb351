"""The master's process killed again and again under load: no line is lost, none goes back, none is half there.

The nodes are fake, so that what is tested is the master with its real store, and many kills take little time.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import pytest
import structlog

from sparrow.authority.types import Line
from sparrow.base.errors import AlreadyExists, SparrowError
from sparrow.base.ids import VolumeId
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.messages import AskIntent, AuthorityStatus, CreateVolumeRequest
from sparrow.runtime.cluster_key import ClusterKeys, create_key_file
from tests.support.cluster import Proc
from tests.support.fake_node import FakeNode
from tests.support.ports import HOST, free_ports
from tests.support.waiting import WAIT_S, until

T = TypeVar("T")

KILLS = 8
VOLUMES = tuple(VolumeId(f"v{number}") for number in range(4))


class Told:
    """The newest line that anybody outside the master was told, per volume."""

    def __init__(self) -> None:
        self.newest: dict[VolumeId, Line] = {}
        self.count = 0

    def hear(self, line: Line) -> None:
        held = self.newest.get(line.volume_id)
        if held is None or line.lineage > held.lineage:
            self.newest[line.volume_id] = line
            self.count += 1
        elif line.lineage == held.lineage:
            assert line == held, "one lineage means one line for ever"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.key"
    create_key_file(path)
    return path


@pytest.fixture
async def nodes(master: Proc, key: Path) -> AsyncGenerator[dict[str, FakeNode]]:
    keys = ClusterKeys(key, structlog.get_logger())
    listen = master.ready["listen"]
    made = {name: FakeNode(name, listen, keys=keys) for name in ("n1", "n2", "n3")}
    for node in made.values():
        await node.start()
    yield made
    for node in made.values():
        await node.stop()


@pytest.fixture
async def master(tmp_path: Path, key: Path) -> AsyncGenerator[Proc]:
    address = f"{HOST}:{free_ports(1)[0]}"
    arguments = (
        *("master", "run", "--listen", address, "--data", str(tmp_path / "store")),
        *("--cluster-key", str(key)),
    )
    made = Proc("master", arguments, tmp_path / "master.log", {})
    made.start()
    yield made
    if made.running:
        made.kill()


@pytest.mark.timeout(180)
async def test_no_line_that_was_told_is_lost_or_goes_back(
    master: Proc, nodes: dict[str, FakeNode]
) -> None:
    """Goal: durable before delivery. Method: primaries ask for changes all the time; each restart must know it all."""
    seed = 20251
    chance = random.Random(seed)
    told = Told()
    api = ApiClient(master.ready["listen"])
    for name in VOLUMES:
        request = CreateVolumeRequest(name=name, size_bytes=1 << 20, replication_factor=3)
        volume = await retried(lambda request=request: api.create_volume(request))
        assert volume.line is not None
        told.hear(volume.line)

    askers = [asyncio.create_task(change_for_ever(nodes, name, told)) for name in VOLUMES]
    for _ in range(KILLS):
        seen = told.count
        await until(lambda seen=seen: told.count >= seen + 5)
        await asyncio.sleep(chance.uniform(0, 0.05))
        master.kill()
        await asyncio.to_thread(master.start)
        status = await retried(api.authority_status)
        check_knows_all(status, told)
    for task in askers:
        task.cancel()
    for ended in await asyncio.gather(*askers, return_exceptions=True):
        assert isinstance(ended, asyncio.CancelledError), ended
    for node in nodes.values():
        for fact in node.facts:
            told.hear(fact.line)
    check_knows_all(await retried(api.authority_status), told)
    generations = [entry["generation"] for entry in master.log_events("process.started")]
    assert generations == list(range(1, KILLS + 2))
    await api.close()


@pytest.mark.timeout(180)
async def test_a_volume_is_there_as_a_whole_or_not_at_all(
    master: Proc, nodes: dict[str, FakeNode]
) -> None:
    """Goal: nothing half-created. Method: kill at any moment of a create; it completes, or its name is free."""
    chance = random.Random(7)
    api = ApiClient(master.ready["listen"])
    await retried(lambda: ready_nodes(api))
    for number in range(6):
        name = f"w{number}"
        request = CreateVolumeRequest(name=name, size_bytes=1 << 20, replication_factor=3)
        creating = asyncio.create_task(api.create_volume(request))
        await asyncio.sleep(chance.uniform(0, 0.06))
        master.kill()
        with suppress(SparrowError):
            await creating
        await asyncio.to_thread(master.start)
        volumes = {volume.name for volume in await retried(api.list_volumes)}
        if name not in volumes:
            # What it was told of twice it has made once.
            with suppress(AlreadyExists):
                await retried(lambda request=request: api.create_volume(request))
        await until(lambda name=name: is_healthy(api, name))
    await api.close()


async def change_for_ever(nodes: dict[str, FakeNode], name: VolumeId, told: Told) -> None:
    """As the primary: take one replica out, take it in, take it out ..."""
    while True:
        await asyncio.sleep(0)
        held = [node.lines[name] for node in nodes.values() if name in node.lines]
        line = max(held, key=lambda one: one.lineage)
        primary = nodes[line.primary_member.node_id]
        other = max(
            member.replica_id for member in line.members if member.replica_id != line.primary
        )
        leaves = other in line.in_sync
        intent = AskIntent.SHRINK_IN_SYNC if leaves else AskIntent.GROW_IN_SYNC
        answer = None
        with suppress(SparrowError):
            answer = await primary.ask(name, other, intent)
        if isinstance(answer, Line):
            told.hear(answer)
        else:
            # The master is away; or of the newest line the primary hears later than another node, or than nobody yet.
            await asyncio.sleep(0.02)


def check_knows_all(status: AuthorityStatus, told: Told) -> None:
    lines = {line.volume_id: line for line in status.lines}
    assert status.skipped == ()
    for volume_id, newest in told.newest.items():
        assert lines[volume_id].lineage >= newest.lineage
        if lines[volume_id].lineage == newest.lineage:
            assert lines[volume_id] == newest


async def is_healthy(api: ApiClient, name: str) -> bool:
    volume = await retried(lambda: api.get_volume(name))
    return volume.state == "healthy"


async def ready_nodes(api: ApiClient) -> None:
    nodes = await api.list_nodes()
    if sum(node.state == "ready" for node in nodes) < 3:
        raise SparrowError("not all nodes are known yet")


async def retried(call: Callable[[], Awaitable[T]]) -> T:
    """The call's result, tried again while the master is away."""
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await call()
            except AlreadyExists:
                raise
            except SparrowError:
                pass
            await asyncio.sleep(0.02)
