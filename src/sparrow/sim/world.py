"""One simulated cluster: a master, nodes, clients, and everything the faults can do to them."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, Final

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from sparrow.authority.events import TopologyChanged
from sparrow.authority.recovery import NodeAnswer, Recovered
from sparrow.authority.status import VolumeState, VolumeStatus
from sparrow.authority.types import (
    AckPolicy,
    DesiredVolume,
    Line,
    Member,
    PlacedSlot,
    VolumePhase,
    VolumeShape,
)
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Epoch, Lsn, NodeId, ReplicaId, VolumeId
from sparrow.master.recover import ASK_TIMEOUT_S
from sparrow.rpc.messages import ReplicaLinesRequest
from sparrow.sim.checkers import Checkers
from sparrow.sim.client import Client
from sparrow.sim.clock import WORLD, Killed, Process, SimLoop
from sparrow.sim.links import SimFabric
from sparrow.sim.master import MASTER, OTHER_MASTER, SimCall, SimMaster
from sparrow.sim.network import Network
from sparrow.sim.node import SimDataPlane, SimNode, SimPool
from sparrow.store.memory import MemoryDisk
from sparrow.store.rows import read_line_row, read_volume_row

#: Clocks run at most this far from true time, so any two within the 1 % that grants allow for.
DRIFT: Final = 0.005
EVENTS_KEPT: Final = 60
OPERATOR: Final = "operator"
#: How long a person waits for an answer; what is wanted goes on without them.
API_S: Final = 20.0
#: A master that could not start is started again after this.
MASTER_AGAIN_S: Final = 0.5
SIZE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How large the cluster of one run is."""

    nodes: int = 3
    volumes: int = 2
    replication_factor: int = 3
    min_in_sync: int = 2
    ack: AckPolicy = AckPolicy.SYNC
    #: How many there are, nodes in turn; 0: nodes have none.
    zones: int = 0
    drift: float = DRIFT
    #: Volumes are of the size at which a copy has several pieces under way; on compiled cores only.
    large: bool = False


class World:
    """Build it, let it run; everything in it follows from the seed."""

    #: Of every volume, when it is made.
    size_bytes = SIZE_BYTES

    def __init__(self, seed: int, shape: Shape) -> None:
        self.seed = seed
        self.shape = shape
        self.rng = Random(seed)
        self.loop = self._make_loop()
        self.loop.set_exception_handler(self._unhandled)
        self.network = self._make_network(Random(self.rng.random()))
        self.network.on_bug = self._bug
        self.fabric = self._make_fabric()
        self.disk = MemoryDisk(cluster_id=f"{self.rng.getrandbits(128):032x}")
        self.names = [NodeId(f"n{i}") for i in range(1, shape.nodes + 1)]
        self.pools = {name: self._make_pool(name) for name in self.names}
        #: Machines that nobody switches on any more.
        self.scrapped: set[NodeId] = set()
        self.nodes: dict[NodeId, SimNode] = {}
        self.master: SimMaster | None = None
        #: Where the cluster's master runs, and where its address still leads to one that was replaced.
        self.master_name = MASTER
        self.misled: set[NodeId] = set()
        self.store_lost = False
        #: Masters that were replaced and do not know it; how many were replaced at all.
        self.zombies: list[SimMaster] = []
        self._reign = 0
        self.checkers = self._make_checkers()
        self.checkers.on_loss = self._lost_above
        self.events: deque[str] = deque(maxlen=EVENTS_KEPT)
        self.clients: dict[VolumeId, Client] = {}
        self._incarnations = dict.fromkeys(self.names, 0)
        self._digest = hashlib.blake2b(digest_size=16)
        #: Nobody runs any more; kept, so that nothing of them is collected and cleaned up.
        self._graves: list[object] = []
        self.checkers.on_deleted = self._deleted
        self.loop.after_step = self.checkers.after_step

    # ------------------------------------------------------------ what a world is made of; others stand on other parts

    def _make_loop(self) -> SimLoop:
        return SimLoop()

    def _make_network(self, rng: Random) -> Network:
        return Network(self.loop, rng)

    def _make_fabric(self) -> SimFabric:
        return SimFabric(self.network)

    def _make_pool(self, _name: NodeId) -> SimPool:
        return SimPool()

    def _make_checkers(self) -> Checkers:
        return Checkers(self.pools, self._dataplanes)

    def _make_client(self, volume_id: VolumeId) -> Client:
        return Client(self, volume_id, Random(self.rng.random()))

    def _make_dataplane(self, process: Process, name: NodeId) -> SimDataPlane:
        return SimDataPlane(
            process, self.pools[name], self.fabric, Random(self.rng.random()), self.checkers.touched
        )

    # ------------------------------------------------------------ processes

    def start_master(self) -> None:
        """Boot the master, unless it runs; its store may refuse."""
        if self.master is not None:
            if self.master.process.alive:
                return
            self.kill_master()
        if self.store_lost:
            return
        process = self._process(self.master_name)
        disk = self.disk
        disk.crash()

        def durable(lines: Sequence[Line], recovered: Recovered | None) -> None:
            if recovered is None:
                self._look_for_lives(master, lines)
            else:
                self._look_for_an_end(master, recovered)
            self.checkers.durable(id(disk), disk.generation, lines)
            if recovered is not None:
                self.checkers.recovered(lines)

        async def ask(addresses: Collection[str], generation: int) -> dict[str, NodeAnswer]:
            return await self.ask_nodes(process.name, addresses, generation)

        try:
            master = SimMaster(
                process, disk, self.logger(process.name), durable, ask, reign=self._reign
            )
        except SparrowError as error:
            self.note("master.start_failed", cause=str(error))
            self._graves.append(process)
            process.kill()
            return
        self.master = master
        self.note("master.started", name=process.name, generation=master.generation)
        process.soon(self._serve_master, master)

    def _look_for_lives(self, master: SimMaster, lines: Sequence[Line]) -> None:
        """A restored store may begin a volume anew of which only nodes know that it heard nothing of.

        Nobody can tell it then (docs/operations/lost-master.md): what that volume held is given up. Where one of its
        replicas was heard of, it is not, and everything acknowledged is asked for as ever.
        """
        for line in lines:
            past = self.checkers.unknown_life(id(master.store.disk), line)
            if past is None:
                continue
            heard = master.authority.observations.hosts(line.volume_id)
            known = {one.node_id for one in past.members if self._has(one, line.volume_id)} & heard
            if not known:
                self.note("volume.begun_anew", volume=line.volume_id, epoch=line.lineage.epoch)
                self.checkers.begins_anew(line)

    def _look_for_an_end(self, master: SimMaster, recovered: Recovered) -> None:
        """A restored store may remember a deletion, and not that the volume was made again: that life ends, too.

        Only where none of its replicas was heard of, unless somebody said so.
        """
        line, basis = recovered.line, recovered.basis
        if line is None or basis is None or not line.retired or recovered.audit.verb != "confirm":
            return
        heard = master.authority.observations.hosts(line.volume_id)
        life = self.checkers.life_ended_by(line)
        for member in () if life is None else life.members:
            if member.node_id not in heard or not self._has(member, line.volume_id):
                continue
            acted_on = self.pools[member.node_id].files[line.volume_id].line
            if acted_on is not None and acted_on.lineage > basis.lineage:
                self.checkers.ended_in_silence(line, acted_on, member.node_id)

    def replace_master(self, disk: MemoryDisk | None = None) -> None:
        """Start another master beside the one that runs, on the same store or on another one.

        Nobody stops the old one. It keeps its streams, and calls of nodes that are misled go on to reach it.
        """
        old, self.master = self.master, None
        name = OTHER_MASTER if self.master_name == MASTER else MASTER
        for zombie in [one for one in self.zombies if one.process.name == name]:
            self.end_zombie(zombie)
        if old is not None and old.process.alive:
            self.note("master.replaced", name=old.process.name, generation=old.generation)
            self.zombies.append(old)
        elif old is not None:
            self._graves.append(old)
            self.network.died(old.process.name)
        if disk is not None:
            self._graves.append(self.disk)
            self.disk = disk
            self.store_lost = False
        self.master_name = name
        self._reign += 1
        self.start_master()

    def lose_store(self) -> None:
        """The master's machine is gone with its disk: nobody starts a master until there is another store."""
        self.store_lost = True

    def end_zombie(self, zombie: SimMaster) -> None:
        self.note("zombie.killed", name=zombie.process.name)
        self.zombies.remove(zombie)
        self._graves.append(zombie)
        zombie.process.kill()
        self.network.died(zombie.process.name)

    def _way_to_master(self, node: NodeId) -> str:
        zombie = self.zombies[-1].process.name if self.zombies else self.master_name
        return zombie if node in self.misled else self.master_name

    def _serve_master(self, master: SimMaster) -> None:
        try:
            master.start(lambda: self.network.listen(master.process, master))
        except SparrowError as error:
            # As a process does that cannot use its store; whoever watches over it starts it again.
            self.note("master.start_failed", cause=str(error))
            if self.master is master:
                self.loop.at(0.0, self.kill_master)
                self.loop.at(MASTER_AGAIN_S, self.start_master)

    async def ask_nodes(
        self, caller: str, addresses: Collection[str], generation: int
    ) -> dict[str, NodeAnswer]:
        """``master.recover.ask_nodes`` over the simulated network."""
        request = ReplicaLinesRequest(master_generation=generation)

        async def ask(address: str) -> tuple[str, NodeAnswer] | None:
            try:
                answer = await self.network.call(
                    caller,
                    address.partition(":")[0],
                    lambda node: node.service.replica_lines(request),
                    timeout_s=ASK_TIMEOUT_S,
                )
            except SparrowError:
                return None
            return address, answer

        found = await asyncio.gather(*(ask(address) for address in addresses))
        return dict(one for one in found if one is not None)

    def kill_master(self) -> None:
        if self.master is None:
            return
        self.note("master.killed")
        self._graves.append(self.master)
        self.master.process.kill()
        self.network.died(self.master.process.name)
        self.master = None

    def start_node(self, name: NodeId) -> None:
        """Start a node's process, unless it runs or its machine was thrown away."""
        if name in self.nodes or name in self.scrapped:
            return
        self._incarnations[name] += 1
        process = self._process(name)
        node = SimNode(
            process,
            pool=self.pools[name],
            dataplane=self._make_dataplane(process, name),
            incarnation=self._incarnations[name],
            network=self.network,
            fabric=self.fabric,
            cluster_id=self.disk.cluster_id,
            zone=self._zone(name),
            log=self.logger(name),
        )
        node.master.where = lambda: self._way_to_master(name)
        node.master.on_line = lambda line, reign, in_stream: self.checkers.told(
            name, line, in_stream=in_stream and reign == self._reign
        )
        node.master.newest = lambda: self.checkers.newest
        node.master.on_stale = lambda line, reign: self._stale(name, line, reign)
        self.nodes[name] = node
        self.note("node.started", node=name, incarnation=node.me.incarnation)
        process.spawn(self._serve_node(node), "start")

    def _stale(self, node: NodeId, line: Line, reign: int) -> None:
        """A replaced master may tell what it likes; what counts is that nobody acts on it."""
        if reign == self._reign:
            self.checkers.stale(node, line)

    def _zone(self, name: NodeId) -> str:
        zones = self.shape.zones
        return f"z{self.names.index(name) % zones}" if zones else ""

    async def _serve_node(self, node: SimNode) -> None:
        await node.start()
        self.network.listen(node.process, node)

    def kill_node(self, name: NodeId, *, silently: bool = False) -> None:
        """SIGKILL, or ``silently`` the loss of the machine and its power: nobody is told, logs end torn."""
        node = self.nodes.pop(name, None)
        if node is None:
            return
        self.note("node.killed", node=name, silently=silently)
        self._graves.append(node)
        node.process.kill()
        if silently:
            node.dataplane.lose_power()
        else:
            node.dataplane.kill()
        self.checkers.touched()
        self.network.died(name, silently=silently)

    def wipe_node(self, name: NodeId) -> None:
        """Its disk is replaced."""
        self.kill_node(name)
        self.note("node.wiped", node=name)
        for volume_id in self.pools[name].files:
            self.checkers.forget(name, volume_id)
        self.pools[name].wipe()
        self.checkers.touched()

    def living_nodes(self) -> Iterator[SimNode]:
        return iter(list(self.nodes.values()))

    # ------------------------------------------------------------ volumes

    @property
    def volumes(self) -> dict[VolumeId, DesiredVolume]:
        """What is wanted, by the store, without what is being deleted."""
        found = (read_volume_row(row) for _, row in sorted(self.disk.volumes.items()))
        return {
            one.volume_id: one
            for one in found
            if isinstance(one, DesiredVolume) and one.phase is not VolumePhase.DELETING
        }

    @property
    def whole(self) -> bool:
        """Whether every volume has all its copies, on disks that are all there: one of them may be lost now."""
        return (
            bool(self.volumes)
            and not self.disk.marks
            and all(
                (line := self.checkers.newest.get(one)) is not None
                and not line.retired
                and len(line.in_sync) == len(line.members) == line.replication_factor > 1
                and self._files_are_there(line)
                for one in self.volumes
            )
        )

    @property
    def intact(self) -> bool:
        """Whether every replica that the newest lines mean is there: what is known only to nodes can be asked for."""
        return not self.scrapped and all(
            line.retired or self._files_are_there(line) for line in self.checkers.newest.values()
        )

    def _files_are_there(self, line: Line) -> bool:
        return all(
            self._has(member, line.volume_id) and member.node_id not in self.scrapped
            for member in line.members
        )

    def _has(self, member: Member, volume_id: VolumeId) -> bool:
        files = self.pools[member.node_id].files.get(volume_id)
        return files is not None and files.uuid == member.uuid

    def forget_what_nobody_knows(self, disk: MemoryDisk) -> None:
        """A store begins; of volumes that are neither in it nor on any node nothing is expected any more."""
        found = (read_line_row(row) for _, row in sorted(disk.lines.items()))
        lines = [one for one in found if isinstance(one, Line)]
        self.checkers.begins(id(disk), disk.generation, lines)
        for volume_id in sorted(self.checkers.newest):
            held = any(volume_id in pool.files for pool in self.pools.values())
            if not held and volume_id not in disk.lines:
                self.checkers.forget_volume(volume_id)

    def create_volumes(self) -> None:
        """Record and announce every volume, as the master's API does."""
        assert self.master is not None
        volumes = []
        for number in range(1, self.shape.volumes + 1):
            where = self.rng.sample(self.names, self.shape.replication_factor)
            volumes.append(
                DesiredVolume(
                    volume_id=VolumeId(f"v{number}"),
                    shape=VolumeShape(
                        size_bytes=self.size_bytes,
                        block_size=4096,
                        replication_factor=self.shape.replication_factor,
                        ack=self.shape.ack,
                        min_in_sync=self.shape.min_in_sync,
                    ),
                    slots=tuple(
                        PlacedSlot(replica_id=ReplicaId(f"r{i}"), node_id=node)
                        for i, node in enumerate(sorted(where), start=1)
                    ),
                )
            )
            self.master.store.create_volume(volumes[-1])
            self.attach(volumes[-1].volume_id)
        news = TopologyChanged(changed=tuple(volumes))
        self.master.process.soon(self.master.driver.feed, news)

    def attach(self, volume_id: VolumeId) -> None:
        """Let a client use a volume of this name from now on, whenever there is one."""
        if volume_id not in self.clients:
            client = self.clients[volume_id] = self._make_client(volume_id)
            self.loop.at(0.0, client.act)

    def _lost_above(self, volume_id: VolumeId, lsn: Lsn) -> None:
        """An operator went on from a stale replica."""
        self.clients[volume_id].histories.lost_above(lsn)

    def _deleted(self, volume_id: VolumeId, epoch: Epoch) -> None:
        client = self.clients.get(volume_id)
        if client is not None:
            client.histories.deleted(epoch)

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Let a person, or a program beside the cluster, do something."""
        self.loop.create_task(work, name=name, context=WORLD.copy())

    async def api(
        self, serve: Callable[[SimMaster, SimCall], Awaitable[Any]], *, timeout_s: float = API_S
    ) -> Any:
        """Call the master as the command line does. Raises: SparrowError."""
        call = SimCall(OPERATOR)
        return await self.network.call(
            OPERATOR, self.master_name, lambda master: serve(master, call), timeout_s=timeout_s
        )

    def status(self, volume_id: VolumeId) -> VolumeStatus | None:
        """What the master would tell a person now."""
        if self.master is None or not self.master.process.alive:
            return None
        return self.master.authority.status(volume_id, self.master.process.clock())

    def all_healthy(self) -> bool:
        found = [self.status(volume_id) for volume_id in self.volumes]
        return all(one is not None and one.state is VolumeState.HEALTHY for one in found)

    def last_look(self) -> None:
        """The end of a run: all is well, faults have ended. Raises: Violation."""

    # ------------------------------------------------------------ time

    def run(self, seconds: float, *, steps: int = sys.maxsize) -> None:
        """Let true time pass, or so many steps. Raises: Violation."""
        self.loop.run_for(seconds, steps=steps)

    def close(self) -> None:
        """The end: nothing of this world may be used any more."""
        self.nodes.clear()
        self.clients.clear()
        self._graves.clear()
        self.master = None
        self.zombies.clear()
        self.network.services.clear()
        self.network.listening.clear()
        self.network.connections.clear()
        self.fabric.ends.clear()
        self.loop.finish()
        self.loop.close()

    # ------------------------------------------------------------ what is seen

    def note(self, event: str, **facts: object) -> None:
        """One line of the history."""
        said = " ".join(f"{key}={value}" for key, value in facts.items())
        line = f"{self.loop.now:.6f} {event} {said}"
        self.events.append(line)
        self._digest.update(line.encode())

    def digest(self) -> str:
        """Of everything that happened so far; equal for equal histories."""
        whole = self._digest.copy()
        whole.update(f"{self.loop.steps} {self.loop.now:.9f} {self.network.messages}".encode())
        return whole.hexdigest()

    def logger(self, name: str) -> FilteringBoundLogger:
        def record(_logger: object, _method: str, facts: EventDict) -> EventDict:
            event = facts.pop("event")
            if facts.pop("exc_info", None):
                error = sys.exc_info()[1]
                if error is not None:
                    self._bug(name, error)
            self.note(f"{name}: {event}", **facts)
            raise structlog.DropEvent

        log: FilteringBoundLogger = structlog.wrap_logger(
            None,
            processors=[record],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        )
        return log

    def _process(self, name: str) -> Process:
        drift = self.rng.uniform(-self.shape.drift, self.shape.drift)
        return Process(
            self.loop,
            name,
            rate=1.0 + drift,
            offset=self.rng.uniform(0, 1000) - drift * self.loop.now,
        )

    def _dataplanes(self) -> Iterator[tuple[NodeId, SimDataPlane]]:
        return ((name, node.dataplane) for name, node in self.nodes.items())

    def _bug(self, who: str, error: BaseException) -> None:
        self.checkers.bug(f"{who}: {type(error).__name__}: {error}")

    def _unhandled(self, _loop: object, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if error is None or isinstance(error, Killed | SparrowError):
            return
        if isinstance(error, Exception):
            self.checkers.bug(f"unhandled {type(error).__name__}: {error} ({context['message']})")
        else:
            self.checkers.interrupted(error)
