"""A node's process: every control machine of production on the model data plane, as ``node.app`` puts them together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority.adapter import SessionIds
from sparrow.authority.types import Term
from sparrow.base.errors import Refused, SparrowError, StaleEpoch
from sparrow.base.ids import NodeId, VolumeId
from sparrow.dataplane.model.log import NO_TERM
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.dataplane.model.state import ModelFiles, ModelPool, ModelVolume
from sparrow.formats.hello import Hello, HelloAnswer, HelloCode
from sparrow.node.access import AccessBook
from sparrow.node.facts import SlotReports
from sparrow.node.forwarding import Door, Forwarding
from sparrow.node.grants import GrantLinks
from sparrow.node.keys import NodeKeys
from sparrow.node.master_link import MasterLink
from sparrow.node.mending import Mender
from sparrow.node.outside import Identity
from sparrow.node.peer_service import PeerService
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.node.surroundings import Surroundings
from sparrow.ports.dataplane import (
    BatchDamaged,
    CoreEvent,
    FenceReport,
    GateOpened,
    GrantLinkLost,
    PageDamaged,
    PageDigests,
    ReservationsChanged,
    SumsDamaged,
    SumsImage,
)
from sparrow.rpc.messages import (
    FenceRequest,
    Heartbeat,
    JoinAnswer,
    JoinRequest,
    LogChunk,
    PageDigestRequest,
    PrepareRebuildAnswer,
    PrepareRebuildRequest,
    ReadLogRequest,
    ReadPageAnswer,
    ReadPageRequest,
    ReadSumsRequest,
    ReservationChangeAnswer,
    ReservationChangeRequest,
    ReservationLook,
    ReservationLookRequest,
)
from sparrow.sim.clock import Process
from sparrow.sim.links import SimFabric
from sparrow.sim.logdisk import LogDisk
from sparrow.sim.master import MasterFor
from sparrow.sim.network import Network

#: Commands that write to a disk: they take a moment, and go on when nobody waits for them any more.
SLOW_COMMANDS: Final = (
    "format_replica set_state set_line fence begin_term append_log join prepare_rebuild commit_inherited "
    "set_membership ship receive drop_peer open_gate close_gate close_replica delete_replica"
).split()
COMMAND_S: Final = 0.003
ORDER_S: Final = 5e-5


@dataclass(slots=True)
class SimPool(ModelPool):
    """A pool, with what a node remembers besides its replicas (``node.pool``)."""

    generation: int = 0

    def learn_generation(self, generation: int) -> None:
        self.generation = max(self.generation, generation)

    def wipe(self) -> None:
        """Another disk is in its place."""
        self.files.clear()
        self.generation = 0


class SimDataPlane(ModelDataPlane):
    """The model with commands that take time, in their order; like the core's, they do not end with their caller."""

    def __init__(
        self,
        process: Process,
        pool: ModelPool,
        fabric: SimFabric,
        rng: Random,
        touched: Callable[[], None],
    ) -> None:
        super().__init__(
            process.name,
            pool,
            fabric,
            clock=process.clock,
            make_uuid=lambda: f"{rng.getrandbits(128):032x}",
        )
        self._process = process
        self._rng = rng
        self._free_at: dict[VolumeId, float] = {}
        self._touched = touched
        #: Volumes whose gate stands open, by what the core last looked at.
        self.open_gates: set[VolumeId] = set()
        self.disk = LogDisk(rng, self._flushed)
        self._power_lost = False
        for name in SLOW_COMMANDS:
            setattr(self, name, self._slowed(getattr(self, name)))

    def lose_power(self) -> None:
        """The machine goes with the process."""
        self._power_lost = True
        self.kill()

    def _before_write(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        self.disk.before_write(volume_id, volume)

    def _crash(self, files: ModelFiles) -> None:
        self.disk.crash(files, power=self._power_lost)

    def _look_at_gate(self, volume_id: VolumeId, volume: ModelVolume) -> None:
        super()._look_at_gate(volume_id, volume)
        if volume.gate_open and volume_id not in self.open_gates:
            self.open_gates.add(volume_id)
            self._touched()

    def _close(self, volume_id: VolumeId, volume: ModelVolume, cause: str) -> None:
        super()._close(volume_id, volume, cause)
        if volume_id in self.open_gates:
            self.open_gates.discard(volume_id)
            self._touched()

    async def ship(self, volume_id: VolumeId, slot: int, *args: Any, **kwargs: Any) -> None:
        """A link to a peer has ended, or was dropped, before the next one comes (``node.link_ids``)."""
        volume = self._volumes.get(volume_id)
        assert volume is None or slot not in volume.peers, f"two links of {volume_id} to {slot}"
        await super().ship(volume_id, slot, *args, **kwargs)

    def term_of(self, volume_id: VolumeId) -> Term:
        """The newest term this replica knows of as its own or as promised; of epoch 0 when it is not open."""
        volume = self._volumes.get(volume_id)
        return NO_TERM if volume is None else volume.term

    def boot_clock_ns(self) -> int:
        """The clock of the core's times."""
        return int(self._process.clock() * 1e9)

    def may_serve(self, volume_id: VolumeId) -> bool:
        """Whether a read that came now would be answered."""
        volume = self._volumes.get(volume_id)
        return volume is not None and volume.gate_open and self.granted(volume)

    def _slowed(self, command: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def carried_out(at: float, volume_id: VolumeId, *args: Any, **kwargs: Any) -> Any:
            loop = asyncio.get_running_loop()
            await asyncio.sleep(at - loop.time())
            try:
                return await command(volume_id, *args, **kwargs)
            finally:
                self._touched()

        async def call(volume_id: VolumeId, *args: Any, **kwargs: Any) -> Any:
            now = self._process.clock()
            # Later than the one before by more than a few steps of the loop: at one moment they could change places.
            earliest = self._free_at.get(volume_id, 0.0) + ORDER_S
            at = max(now + self._rng.uniform(0, COMMAND_S), earliest)
            self._free_at[volume_id] = at
            work = carried_out(at, volume_id, *args, **kwargs)
            return await asyncio.shield(self._process.spawn(work, command.__name__))

        return call


class NodeCalls:
    """``PeerCalls`` and ``Links`` of one node over the network."""

    def __init__(self, network: Network, process: Process, fabric: SimFabric) -> None:
        self._network = network
        self._process = process
        self._fabric = fabric

    async def fence(self, addr: str, request: FenceRequest, *, timeout_s: float) -> FenceReport:
        report: FenceReport = await self._call(addr, lambda s: s.service.fence(request), timeout_s)
        return report

    async def join(self, addr: str, request: JoinRequest, *, timeout_s: float) -> JoinAnswer:
        answer: JoinAnswer = await self._call(addr, lambda s: s.service.join(request), timeout_s)
        return answer

    async def prepare_rebuild(
        self, addr: str, request: PrepareRebuildRequest, *, timeout_s: float
    ) -> PrepareRebuildAnswer:
        answer: PrepareRebuildAnswer = await self._call(
            addr, lambda s: s.service.prepare_rebuild(request), timeout_s
        )
        return answer

    async def read_log(
        self, addr: str, request: ReadLogRequest, *, timeout_s: float
    ) -> AsyncGenerator[LogChunk]:
        async def whole(node: SimNode) -> list[LogChunk]:
            return [chunk async for chunk in node.service.read_log(request)]

        for chunk in await self._call(addr, whole, timeout_s):
            yield chunk

    async def page_digests(
        self, addr: str, request: PageDigestRequest, *, timeout_s: float
    ) -> PageDigests:
        digests: PageDigests = await self._call(
            addr, lambda s: s.service.page_digests(request), timeout_s
        )
        return digests

    async def read_page(
        self, addr: str, request: ReadPageRequest, *, timeout_s: float
    ) -> ReadPageAnswer:
        answer: ReadPageAnswer = await self._call(
            addr, lambda s: s.service.read_page(request), timeout_s
        )
        return answer

    async def read_sums(
        self, addr: str, request: ReadSumsRequest, *, timeout_s: float
    ) -> SumsImage:
        image: SumsImage = await self._call(addr, lambda s: s.service.read_sums(request), timeout_s)
        return image

    async def look_at_reservations(
        self, addr: str, request: ReservationLookRequest, *, timeout_s: float
    ) -> ReservationLook:
        look: ReservationLook = await self._call(
            addr, lambda s: s.service.look_at_reservations(request), timeout_s
        )
        return look

    async def change_reservations(
        self, addr: str, request: ReservationChangeRequest, *, timeout_s: float
    ) -> ReservationChangeAnswer:
        answer: ReservationChangeAnswer = await self._call(
            addr, lambda s: s.service.change_reservations(request), timeout_s
        )
        return answer

    async def connect(self, addr: str, hello: Hello, *, timeout_s: float) -> int:
        async def accept(node: SimNode) -> tuple[HelloAnswer, int, Any]:
            answer, fd = await node.accept(hello, self._process)
            # The end itself: by the time an answer comes too late its number may be another connection's.
            return answer, fd, self._fabric.ends.get(fd)

        def unclaimed(found: tuple[HelloAnswer, int, Any]) -> None:
            if found[2] is not None:
                self._process.soon(found[2].close)

        answer, fd, _end = await self._call(addr, accept, timeout_s, unclaimed=unclaimed)
        self._fabric.claimed(int(fd))
        if answer.code is HelloCode.STALE_TERM:
            raise StaleEpoch(f"epoch {answer.promised_epoch} is promised")
        if answer.code is not HelloCode.ACCEPTED:
            raise Refused(answer.code.name)
        return int(fd)

    async def _call(
        self,
        addr: str,
        serve: Callable[[SimNode], Awaitable[Any]],
        timeout_s: float,
        unclaimed: Callable[[Any], None] | None = None,
    ) -> Any:
        server = addr.partition(":")[0]
        return await self._network.call(
            self._process.name, server, serve, timeout_s=timeout_s, unclaimed=unclaimed
        )


class SimNode:
    """One process of a node; a restart makes a new one on the same pool."""

    def __init__(
        self,
        process: Process,
        *,
        pool: SimPool,
        dataplane: SimDataPlane,
        incarnation: int,
        network: Network,
        fabric: SimFabric,
        cluster_id: str,
        zone: str,
        log: FilteringBoundLogger,
    ) -> None:
        self.process = process
        self._zone = zone
        self._fabric = fabric
        self.dataplane = dataplane
        name = process.name
        #: A node that restarts listens elsewhere: its port is the incarnation.
        self.me = Identity(
            node_id=NodeId(name),
            incarnation=incarnation,
            ctrl_addr=f"{name}:{10000 + incarnation}",
            data_addr=f"{name}:{20000 + incarnation}",
            iscsi_addr=f"{name}:{30000 + incarnation}",
        )
        calls = NodeCalls(network, process, fabric)
        keys = NodeKeys()
        self.master = MasterFor(network, name)
        self.grants = GrantLinks(
            me=self.me,
            dataplane=self.dataplane,
            links=calls,
            keys=keys,
            cluster_id=lambda: cluster_id,
            spawn=self._spawn,
            log=log,
        )
        self._around = Surroundings(
            me=self.me,
            dataplane=self.dataplane,
            calls=calls,
            links=calls,
            master=self.master,
            keys=keys,
            sessions=SessionIds(incarnation),
            log=log,
            clock=process.clock,
            cluster_id=lambda: cluster_id,
            control_live=lambda: self.link.live,
            urge=self._urge,
            want_grants=self.grants.want,
            master_generation=lambda: self.link.generation,
        )
        self.replicas = Replicas(self._around)
        self.mender = Mender(self._around, find=self.replicas.find, spawn=self._spawn)
        self._reports = SlotReports(self.replicas, self.dataplane, self.me, log)
        self.reservations = Reservations(self.dataplane, spawn=self._spawn, log=log)
        self.forwarding = Forwarding(calls)
        self.service = PeerService(
            self.replicas,
            self._around,
            hear_generation=self._hear_generation,
            door=Door(
                self.replicas,
                self.reservations,
                cluster_id=lambda: cluster_id,
                clock_ns=self.dataplane.boot_clock_ns,
            ),
        )
        self.link = MasterLink(
            me=self.me,
            master=self.master,
            replicas=self.replicas,
            access=AccessBook(log),
            build=self._heartbeat,
            resting=lambda: self._reports.resting,
            learn_cluster=lambda _cluster: None,
            spawn=self._spawn,
            log=log,
            generation=pool.generation,
            learn_generation=pool.learn_generation,
        )

    async def start(self) -> None:
        """Inside the process; it listens when this returns."""
        self.dataplane.start(self._take)
        await self.replicas.open_all()
        self._spawn(self.link.heartbeats(), "heartbeats")
        self._spawn(self.link.subscription(), "subscription")

    async def accept(self, hello: Hello, caller: Process) -> tuple[HelloAnswer, int]:
        """The replication port's half of a connection."""
        answer = await self.service.judge(hello)
        if answer.code is not HelloCode.ACCEPTED:
            return answer, -1
        ours, theirs = self._fabric.link(caller, self.process)
        try:
            await self.service.adopt(hello, theirs)
        except SparrowError:
            end = self._fabric.ends.get(theirs)
            if end is not None:
                end.close()
            raise
        return answer, ours

    def _hear_generation(self, generation: int) -> int:
        return self.link.hear_generation(generation)

    def _urge(self) -> None:
        self.link.urge()

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> object:
        return self.process.spawn(work, name)

    def _take(self, event: CoreEvent) -> None:
        if isinstance(event, GrantLinkLost):
            self.grants.lost(event.node_key)
            return
        if isinstance(event, PageDamaged | SumsDamaged | BatchDamaged):
            self.mender.take(event)
            return
        if isinstance(event, ReservationsChanged):
            self.reservations.changed(event)
            return
        volume = self.replicas.find(event.volume_id) if hasattr(event, "volume_id") else None
        if volume is not None:
            volume.take(event)
        if isinstance(event, GateOpened):
            self.reservations.opened(event.volume_id)

    async def _heartbeat(self, sequence: int) -> Heartbeat:
        return Heartbeat(
            node_id=self.me.node_id,
            incarnation=self.me.incarnation,
            sequence=sequence,
            data_addr=self.me.data_addr,
            ctrl_addr=self.me.ctrl_addr,
            iscsi_addr=self.me.iscsi_addr,
            pool_total_bytes=1 << 40,
            pool_free_bytes=1 << 40,
            slots=await self._reports.take(),
            zone=self._zone,
        )
