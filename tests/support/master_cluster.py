"""One real master on a store in memory, with fake nodes around it and a real client, on real sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from sparrow.authority.planned import Planned
from sparrow.base.errors import Unavailable
from sparrow.master.app import Master
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.messages import CreateVolumeRequest
from sparrow.rpc.proof import Keys
from sparrow.store.memory import MemoryDisk, MemoryStore
from tests.support.fake_node import GIB, FakeNode
from tests.support.loop_clock import LoopClock
from tests.support.ports import HOST, free_ports
from tests.support.waiting import until


class Cluster:
    """One master that can be restarted, some fake nodes, one client."""

    def __init__(self, keys: Keys | None = None) -> None:
        self.keys = keys
        self.disk = MemoryDisk()
        self.nodes: dict[str, FakeNode] = {}
        self.address = f"{HOST}:{free_ports(1)[0]}"

    async def start(self, nodes: int = 3) -> None:
        await self.start_master()
        for number in range(1, nodes + 1):
            await self.add(f"n{number}")
        await self.until(lambda: self._ready(nodes))

    async def start_master(self) -> None:
        self.store = MemoryStore(self.disk)
        self.master = Master(self.store, LoopClock(), structlog.get_logger(), keys=self.keys)
        self.address = await self.master.start(self.address)
        self.api = ApiClient(self.address)
        await until(lambda: answers(self.api))

    async def stop_master(self) -> None:
        authority = self.master.driver.authority
        volumes = [authority.desired(volume_id) for volume_id in authority.volumes()]
        wanted = [volume for volume in volumes if volume is not None]
        assert authority.planned() == Planned.of(wanted), "counted as it changed, and all at once"
        assert authority.guarded() == tuple(one for one in wanted if one.access.entries)
        await self.api.close()
        await self.master.stop()
        self.store.close()

    async def restart_alone(self) -> None:
        """Another master, and no node to be heard."""
        for node in self.nodes.values():
            await node.stop()
        await self.stop_master()
        await self.start_master()

    async def add(self, name: str, *, incarnation: int = 1) -> FakeNode:
        node = FakeNode(name, self.address, incarnation=incarnation, keys=self.keys)
        self.nodes[name] = node
        await node.start()
        return node

    async def stop(self) -> None:
        for node in self.nodes.values():
            await node.stop()
        await self.stop_master()

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        await until(holds)

    async def state(self, name: str) -> str:
        return (await self.api.get_volume(name)).state

    async def until_state(self, name: str, state: str) -> None:
        async def there() -> bool:
            return await self.state(name) == state

        await self.until(there)

    async def gone(self, name: str) -> bool:
        """Whether the volume is listed no more."""
        return name not in {volume.name for volume in await self.api.list_volumes()}

    async def stream_open(self, name: str, incarnation: int) -> bool:
        driver = self.master.driver
        status = driver.authority.node_status(self.nodes[name].node_id, driver.clock.now())
        return status.stream_open and status.incarnation == incarnation

    async def _ready(self, count: int) -> bool:
        return sum(node.state == "ready" for node in await self.api.list_nodes()) == count


async def answers(api: ApiClient) -> bool:
    """A connection that takes more than a second to come about, on a machine that stands still, is tried again."""
    try:
        await api.authority_status()
    except Unavailable:
        return False
    return True


def wish(name: str = "a", *, size: int = GIB, replicas: int = 3) -> CreateVolumeRequest:
    return CreateVolumeRequest(name=name, size_bytes=size, replication_factor=replicas)
