"""A simulated cluster on compiled cores: one clock for Python's callbacks and for the room's completions."""

from __future__ import annotations

import asyncio
import hashlib
import heapq
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random
from typing import Any, Final, cast

from sparrow.authority.status import VolumeState
from sparrow.authority.types import AckPolicy
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.events import REBUILD_STARTED
from sparrow.base.ids import NodeId, VolumeId
from sparrow.dataplane.virtual import SIZES, Room, VirtualPool
from sparrow.sim.checkers import Checkers, Violation
from sparrow.sim.client import Client
from sparrow.sim.clock import START_S, Process, SimLoop, Step
from sparrow.sim.compiled.checkers import CompiledCheckers
from sparrow.sim.compiled.client import BlockClient
from sparrow.sim.compiled.content import value_of
from sparrow.sim.compiled.history import PageHistory
from sparrow.sim.compiled.plane import CompiledDataPlane, VirtualFabric
from sparrow.sim.compiled.reigns import ReignHistory
from sparrow.sim.compiled.survival import Mark
from sparrow.sim.links import SimFabric
from sparrow.sim.network import Network
from sparrow.sim.node import SimDataPlane, SimNode
from sparrow.sim.world import Shape, World

NS: Final = 1_000_000_000
#: Pages compared at once.
COMPARED: Final = 64
#: Of a large volume all that was written is compared, and so many other places.
COMPARED_BLINDLY: Final = 16
#: A copy of a volume of this size reads four granules at once (``_native/replication/base_send.pyx``).
LARGE_BYTES: Final = 1536 << 20
#: A last read is answered within this.
LAST_READ_S: Final = 5.0
#: A read of our own does not wait for the repair of what it finds damaged, one page of a run. So it is asked for again,
#: as often as pages may have rotted (``faults.ROTS_MAX``), or as a run has pages, all of which are lost with a block of
#: checksums that nobody had when it rotted; nobody scrubs here. What is not repaired by then is none of these.
LOOKS: Final = 13 + COMPARED


class RoomLoop(SimLoop):
    """Between two callbacks of Python's the room lets time pass until a core has news."""

    def __init__(self, room: Room) -> None:
        super().__init__()
        self.room = room
        #: Called with the hosts that have news, at the moment they have it.
        self.on_news: Callable[[list[int]], None] = lambda _hosts: None

    def _next_timer(self) -> Step | None:
        queue = self._queue
        while queue and queue[0][2].cancelled():
            heapq.heappop(queue)
        room = self.room
        until = min(self._end, queue[0][0]) if queue else self._end
        news = room.run(int(until * NS), int(self.now * NS))
        now = room.now / NS
        self.now = max(self.now, now)
        if news is not None:
            self.on_news(news)
            return None
        return super()._next_timer()


class RoomProcess(Process):
    """A process whose core stops and goes on with it."""

    def __init__(self, loop: SimLoop, name: str, room: Room, host: int, **clock: float) -> None:
        super().__init__(loop, name, **clock)
        self._room = room
        self._host = host

    def stop(self) -> None:
        super().stop()
        self._room.stop(self._host)

    def go_on(self) -> None:
        self._room.go_on(self._host)
        super().go_on()


class RoomNetwork(Network):
    """What is cut between two nodes is cut for their cores too."""

    def __init__(self, loop: SimLoop, rng: Random, room: Room, hosts: dict[str, int]) -> None:
        super().__init__(loop, rng)
        self._room = room
        self._hosts = hosts

    def block(self, a: str, b: str) -> None:
        super().block(a, b)
        if a in self._hosts and b in self._hosts:
            self._room.block(self._hosts[a], self._hosts[b])

    def open(self, a: str, b: str) -> None:
        super().open(a, b)
        if a in self._hosts and b in self._hosts:
            self._room.open(self._hosts[a], self._hosts[b])


class CompiledWorld(World):
    """Build it, let it run; everything in it follows from the seed."""

    #: Of every core. The read cache keeps less than clients use, so that pages come and go.
    sizes = replace(SIZES, cache_pages=64)

    def __init__(self, seed: int, shape: Shape) -> None:
        self.room = Room(seed, start_ns=int(START_S * NS))
        self.hosts: dict[str, int] = {f"n{i}": i - 1 for i in range(1, shape.nodes + 1)}
        if shape.large:
            shape = replace(shape, volumes=1)
            self.size_bytes = LARGE_BYTES
        #: What the planned strike of the room kills with.
        self.doom = "cut"
        #: Called with the node that begins to copy a volume to another one.
        self.on_copy: Callable[[NodeId], None] = lambda _node: None
        super().__init__(seed, shape)
        cast(RoomLoop, self.loop).on_news = self._news

    # ------------------------------------------------------------ what it is made of

    def _make_loop(self) -> SimLoop:
        return RoomLoop(self.room)

    def _make_network(self, rng: Random) -> Network:
        return RoomNetwork(self.loop, rng, self.room, self.hosts)

    def _make_fabric(self) -> SimFabric:
        return cast(SimFabric, VirtualFabric(self.room, self.hosts))

    def _make_pool(self, name: NodeId) -> Any:
        return VirtualPool(self.room, self.hosts[name])

    def _make_checkers(self) -> Checkers:
        local = self.shape.ack is AckPolicy.LOCAL
        return CompiledCheckers(self.room, self.planes, local=local)

    def _make_client(self, volume_id: VolumeId) -> Client:
        return cast(Client, BlockClient(self, volume_id, Random(self.rng.random())))

    def _make_dataplane(self, process: Process, name: NodeId) -> SimDataPlane:
        rng = Random(self.rng.random())
        ppm = round((process.rate - 1.0) * 1e6)
        self.room.advance(int(self.loop.now * NS))
        self.room.set_clocks(
            self.hosts[name],
            boot_ppm=ppm,
            raw_ppm=round(rng.uniform(-self.shape.drift, self.shape.drift) * 1e6),
            boot_ns=int(process.clock() * NS),
            raw_ns=rng.randrange(NS, 1000 * NS),
        )
        plane = CompiledDataPlane(process, self.virtual_pool(name), rng, sizes=self.sizes)
        return cast(SimDataPlane, plane)

    def _process(self, name: str) -> Process:
        process = super()._process(name)
        if name not in self.hosts:
            return process
        return RoomProcess(
            self.loop, name, self.room, self.hosts[name], rate=process.rate, offset=process.offset
        )

    def virtual_pool(self, name: NodeId) -> VirtualPool:
        return cast(dict[NodeId, VirtualPool], self.pools)[name]

    def note(self, event: str, **facts: object) -> None:
        super().note(event, **facts)
        name, _, what = event.partition(": ")
        # Both ends say so; who is copied to names its primary.
        if what == REBUILD_STARTED and "primary" not in facts:
            self.on_copy(NodeId(name))

    @property
    def whole(self) -> bool:
        """Under ack=quorum who lags behind what was answered is no copy: one more that is lost may be one too many.

        Who has it all is then the only one, and may neither commit nor let the others go (docs/decisions/0009).
        """
        return super().whole and not self._judge().somebody_lags()

    # ------------------------------------------------------------ cores

    def plane_of(self, node: SimNode) -> CompiledDataPlane:
        return cast(CompiledDataPlane, node.dataplane)

    def planes(self) -> Iterator[tuple[NodeId, CompiledDataPlane]]:
        return ((name, self.plane_of(node)) for name, node in self.nodes.items())

    def block_clients(self) -> dict[VolumeId, BlockClient]:
        return cast(dict[VolumeId, BlockClient], self.clients)

    def history_of(self, volume_id: VolumeId) -> PageHistory:
        """For one page of a volume: under ack=local, what was answered may be lost."""
        survival = self._judge().survival_of(volume_id)
        return PageHistory() if survival is None else ReignHistory(survival)

    def acknowledged(self, volume_id: VolumeId, lsn: int) -> None:
        """What was answered has committed."""
        self._judge().acked_up_to(volume_id, lsn)

    def answered(self, volume_id: VolumeId, mark: Mark) -> None:
        """A write was answered."""
        self._judge().answered(volume_id, mark)

    def _judge(self) -> CompiledCheckers:
        return cast(CompiledCheckers, self.checkers)

    def _news(self, hosts: list[int]) -> None:
        for host in hosts:
            name = NodeId(f"n{host + 1}")
            node = self.nodes.get(name)
            if node is None:
                continue
            if self.room.doomed(host):
                self.kill_node(name, silently=self.doom != "cut", strike=self.doom)
            else:
                node.process.soon(self.plane_of(node).machine.drain)
        self.checkers.after_step()

    def kill_node(self, name: NodeId, *, silently: bool = False, strike: str = "") -> None:
        """SIGKILL, or ``silently`` the loss of the machine; ``strike`` says what becomes of what was not flushed."""
        node = self.nodes.pop(name, None)
        if node is None:
            return
        self.note("node.killed", node=name, silently=silently)
        self._graves.append(node)
        node.process.kill()
        if not strike:
            strike = self.rng.choice(("lose", "tear", "tear")) if silently else "cut"
        self.room.advance(int(self.loop.now * NS))
        self._judge().dies(name, self.plane_of(node))
        self.plane_of(node).kill(strike, silently=silently)
        self.network.died(name, silently=silently)

    def wipe_node(self, name: NodeId) -> None:
        """Its disk is replaced."""
        self.kill_node(name)
        self.note("node.wiped", node=name)
        for volume_id in self.virtual_pool(name).files:
            self.checkers.forget(name, volume_id)
        self.virtual_pool(name).wipe()

    # ------------------------------------------------------------ the end

    def last_look(self) -> None:
        """All is well and faults have ended: every page is read once more, and all in-sync replicas hold the same.

        Raises: Violation.
        """
        for client in self.block_clients().values():
            for node in self.living_nodes():
                if self.plane_of(node).may_serve(client.volume_id):
                    self.spawn(client.fencing.look(self.plane_of(node)), "reservations")
                    client.look(self.plane_of(node))
        self.run(LAST_READ_S)
        faults = [fault for client in self.block_clients().values() for fault in client.faults()]
        if faults:
            raise Violation("; ".join(faults))
        for volume_id in self.volumes:
            status = self.status(volume_id)
            # A volume whose record was damaged stays as it was.
            if status is not None and status.state is VolumeState.HEALTHY:
                self._compare(volume_id)

    def _compare(self, volume_id: VolumeId) -> None:
        """The committed view of every in-sync replica, page by page, once they all have the same."""
        client = self.block_clients()[volume_id]
        client.quiet = True
        self.run(LAST_READ_S)
        pages: dict[int, dict[NodeId, bytes]] = {}
        line = self.checkers.newest[volume_id]
        count = self.volumes[volume_id].size_bytes // PAGE_BYTES
        firsts = self._compared(volume_id, count)

        def keep(name: NodeId, first: int) -> Callable[[asyncio.Future[Any]], None]:
            def settled(future: asyncio.Future[Any]) -> None:
                payload = future.result().payload
                if payload:
                    unread.discard((name, first))
                for number in range(len(payload) // PAGE_BYTES):
                    content = payload[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
                    pages.setdefault(first + number, {})[name] = content

            return settled

        planes = dict(self.planes())
        unread = {
            (member.node_id, first)
            for member in line.members
            if member.replica_id in line.in_sync and member.node_id in planes
            for first in firsts
        }
        for _ in range(LOOKS):
            for name, first in sorted(unread):
                some = min(COMPARED, count - first)
                answer = planes[name].submit(volume_id, "read", first, some, internal=True)
                if answer is None:
                    raise Violation(f"{name} does not let {volume_id} be read")
                answer.add_done_callback(keep(name, first))
            self.run(LAST_READ_S)
            if not unread:
                break
        client.quiet = False
        for page, found in sorted(pages.items()):
            if len(found) != len(line.in_sync) or len(set(found.values())) != 1:
                said = {name: value_of(page, data) for name, data in found.items()}
                raise Violation(f"replicas of {volume_id} differ in page {page}: {said}")
        if len(pages) != sum(min(COMPARED, count - first) for first in firsts):
            raise Violation(f"only {len(pages)} pages of {volume_id} could be compared")

    def _compared(self, volume_id: VolumeId, count: int) -> list[int]:
        """Where runs of pages begin that are compared."""
        every = range(0, count, COMPARED)
        if not self.shape.large:
            return list(every)
        client = self.block_clients()[volume_id]
        written = {page // COMPARED * COMPARED for page in client.written()}
        return sorted(written.union(self.rng.sample(every, COMPARED_BLINDLY)))

    def close(self) -> None:
        for name in tuple(self.nodes):
            self.kill_node(name)
        super().close()

    def digest(self) -> str:
        whole = hashlib.blake2b(digest_size=16)
        whole.update(f"{super().digest()} {self.room.fingerprint()}".encode())
        return whole.hexdigest()
