"""Several nodes in one process on virtual time: real control code, model data planes, a fake master and network.

The fake master follows the publisher's rules for shrink and grow and delivers lines to every node it can reach;
failover is the test's own decision.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import replace
from typing import Any

import structlog

from sparrow.authority.adapter import SessionIds
from sparrow.authority.effects import HostReplica, Instruction, Synced
from sparrow.authority.types import AssignmentFact, Line, Lineage, Member
from sparrow.base.errors import Refused, StaleEpoch, Unavailable
from sparrow.base.ids import EndpointVersion, Epoch, NodeId, ReplicaId, ReplicaUuid
from sparrow.dataplane.model.links import Fabric
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.dataplane.model.state import ModelPool
from sparrow.formats.hello import Hello, HelloCode
from sparrow.node.access import AccessBook
from sparrow.node.facts import slot_fact
from sparrow.node.grants import GrantLinks
from sparrow.node.keys import NodeKeys
from sparrow.node.master_link import MasterLink
from sparrow.node.outside import Identity
from sparrow.node.peer_service import PeerService
from sparrow.node.replicas import Replicas
from sparrow.node.surroundings import Surroundings
from sparrow.ports.dataplane import (
    CoreEvent,
    FenceReport,
    GrantLinkLost,
    PageDamaged,
    PageDigests,
    SumsImage,
)
from sparrow.rpc.messages import (
    AskAnswer,
    AskIntent,
    AskRefusal,
    AskRequest,
    FenceRequest,
    Heartbeat,
    HeartbeatAck,
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
)
from tests.support.lines import SIZE, VOLUME, peers_of
from tests.support.virtual_time import run_virtual

CLUSTER = "c1"


class Network:
    """Calls and links between nodes, with the fabric's partitions. A call to a parted or dead node hangs or fails."""

    def __init__(self, fabric: Fabric) -> None:
        self.fabric = fabric
        self.services: dict[str, PeerService] = {}

    def calls(self, node: str) -> NodeCalls:
        return NodeCalls(self, node)

    async def reach(self, caller: str, addr: str, timeout_s: float) -> PeerService:
        node = addr.partition(":")[0]
        if self.fabric.silenced(caller, node):
            await asyncio.sleep(timeout_s)
            raise Unavailable(f"No answer from {addr}.")
        await asyncio.sleep(0.0005)
        if node not in self.services or caller not in self.services:
            raise Unavailable(f"{addr} refused the connection.")
        return self.services[node]


class NodeCalls:
    """``PeerCalls`` and ``Links`` of one node."""

    def __init__(self, network: Network, node: str) -> None:
        self._network = network
        self._node = node

    async def fence(self, addr: str, request: FenceRequest, *, timeout_s: float) -> FenceReport:
        return await (await self._to(addr, timeout_s)).fence(request)

    async def join(self, addr: str, request: JoinRequest, *, timeout_s: float) -> JoinAnswer:
        return await (await self._to(addr, timeout_s)).join(request)

    async def prepare_rebuild(
        self, addr: str, request: PrepareRebuildRequest, *, timeout_s: float
    ) -> PrepareRebuildAnswer:
        return await (await self._to(addr, timeout_s)).prepare_rebuild(request)

    async def read_log(
        self, addr: str, request: ReadLogRequest, *, timeout_s: float
    ) -> AsyncGenerator[LogChunk]:
        service = await self._to(addr, timeout_s)
        async for chunk in service.read_log(request):
            yield chunk

    async def page_digests(
        self, addr: str, request: PageDigestRequest, *, timeout_s: float
    ) -> PageDigests:
        return await (await self._to(addr, timeout_s)).page_digests(request)

    async def read_page(
        self, addr: str, request: ReadPageRequest, *, timeout_s: float
    ) -> ReadPageAnswer:
        return await (await self._to(addr, timeout_s)).read_page(request)

    async def read_sums(
        self, addr: str, request: ReadSumsRequest, *, timeout_s: float
    ) -> SumsImage:
        return await (await self._to(addr, timeout_s)).read_sums(request)

    async def connect(self, addr: str, hello: Hello, *, timeout_s: float) -> int:
        service = await self._to(addr, timeout_s)
        answer = await service.judge(hello)
        if answer.code is HelloCode.STALE_TERM:
            raise StaleEpoch(f"epoch {answer.promised_epoch} is promised")
        if answer.code is not HelloCode.ACCEPTED:
            raise Refused(answer.code.name)
        ours, theirs = self._network.fabric.connect(self._node, hello.to_node)
        await service.adopt(hello, theirs)
        return ours

    async def _to(self, addr: str, timeout_s: float) -> PeerService:
        return await self._network.reach(self._node, addr, timeout_s)


class FakeMaster:
    """One volume's authority. ``reachable`` says which nodes hear it and are heard."""

    def __init__(self) -> None:
        self.line: Line | None = None
        self.asked: list[AskRequest] = []
        self.heard: dict[str, Heartbeat] = {}
        self.unreachable: set[str] = set()
        #: Apply asks, but let the answer be lost.
        self.lose_answers = False
        #: Do not even receive asks.
        self.deaf = False
        self.generation = 1
        self._streams: dict[str, asyncio.Queue[Instruction | None]] = {}
        self.hosts: dict[str, HostReplica] = {}

    def mint(self, line: Line) -> None:
        assert self.line is None or line.lineage > self.line.lineage
        self.line = line
        for node in self._streams:
            self._deliver(node)

    def cut(self, node: str) -> None:
        """From now on this node and the master do not hear each other."""
        self.unreachable.add(node)
        stream = self._streams.pop(node, None)
        if stream is not None:
            stream.put_nowait(None)

    def restore(self, node: str) -> None:
        self.unreachable.discard(node)

    def for_node(self, node: str) -> MasterFor:
        return MasterFor(self, node)

    def answer(self, request: AskRequest) -> AskAnswer:
        self.asked.append(request)
        line = self.line
        assert line is not None
        if request.basis != line.lineage or request.asker != line.primary:
            return AskRefusal(
                code="authority.stale_basis", message="moved on", basis=request.basis, recorded=line
            )
        members = set(line.in_sync)
        if request.intent is AskIntent.SHRINK_IN_SYNC:
            members.discard(request.replica_id)
        else:
            members.add(request.replica_id)
        newer = replace(
            line,
            lineage=Lineage(
                epoch=line.lineage.epoch,
                endpoint_version=EndpointVersion(line.lineage.endpoint_version + 1),
            ),
            in_sync=tuple(sorted(members)),
            members=tuple(
                replace(m, uuid=request.uuid)
                if request.uuid is not None and m.replica_id == request.replica_id
                else m
                for m in line.members
            ),
            write_seq=line.write_seq + 1,
        )
        self.mint(newer)
        return newer

    def _fact(self) -> AssignmentFact:
        assert self.line is not None
        return AssignmentFact(line=self.line, peers=peers_of(self.line), peer_revision=1)

    def _deliver(self, node: str) -> None:
        self._streams[node].put_nowait(self._fact())


class MasterFor:
    """``MasterCalls`` of one node."""

    def __init__(self, master: FakeMaster, node: str) -> None:
        self._master = master
        self._node = node

    async def heartbeat(self, heartbeat: Heartbeat, *, timeout_s: float) -> HeartbeatAck:
        await self._travel(timeout_s)
        self._master.heard[self._node] = heartbeat
        return HeartbeatAck(
            sequence=heartbeat.sequence,
            master_generation=self._master.generation,
            cluster_id=CLUSTER,
        )

    async def subscribe(self, node_id: NodeId, incarnation: int) -> AsyncGenerator[Instruction]:
        await self._travel(1.0)
        stream: asyncio.Queue[Instruction | None] = asyncio.Queue()
        self._master._streams[self._node] = stream
        if self._node in self._master.hosts:
            yield self._master.hosts[self._node]
        if self._master.line is not None:
            yield self._master._fact()
        yield Synced(master_generation=self._master.generation)
        while True:
            instruction = await stream.get()
            if instruction is None:
                raise Unavailable("The stream broke.")
            yield instruction

    async def ask(self, request: AskRequest, *, timeout_s: float) -> AskAnswer:
        await self._travel(timeout_s)
        if self._master.deaf:
            await asyncio.sleep(timeout_s)
            raise Unavailable("No answer.")
        answer = self._master.answer(request)
        if self._master.lose_answers:
            raise Unavailable("The connection broke before the answer.")
        return answer

    async def _travel(self, timeout_s: float) -> None:
        if self._node in self._master.unreachable:
            await asyncio.sleep(timeout_s)
            raise Unavailable("The master cannot be reached.")
        await asyncio.sleep(0.0005)


class ModelNode:
    """One process of a node; a restart makes a new one on the same pool."""

    def __init__(self, name: str, cluster: Cluster) -> None:
        self.name = name
        self.cluster = cluster
        self.dataplane = ModelDataPlane(name, cluster.pools[name], cluster.fabric)
        self._tasks: set[asyncio.Task[None]] = set()
        loop = asyncio.get_running_loop()
        me = Identity(
            node_id=NodeId(name),
            incarnation=1,
            ctrl_addr=f"{name}:ctrl",
            data_addr=f"{name}:data",
            iscsi_addr=f"{name}:iscsi",
        )
        self.me = me
        calls = cluster.network.calls(name)
        keys = NodeKeys()
        log = structlog.get_logger().bind(node=name)
        self.grants = GrantLinks(
            me=me,
            dataplane=self.dataplane,
            links=calls,
            keys=keys,
            cluster_id=lambda: CLUSTER,
            spawn=self._spawn,
            log=log,
        )
        around = Surroundings(
            me=me,
            dataplane=self.dataplane,
            calls=calls,
            links=calls,
            master=cluster.master.for_node(name),
            keys=keys,
            sessions=SessionIds(1),
            log=log,
            clock=loop.time,
            cluster_id=lambda: CLUSTER,
            control_live=lambda: self.link.live,
            urge=self._urge,
            want_grants=self.grants.want,
        )
        self.around = around
        self.replicas = Replicas(around)
        self.service = PeerService(self.replicas, around)
        self.link = MasterLink(
            access=AccessBook(structlog.get_logger()),
            me=me,
            master=around.master,
            replicas=self.replicas,
            build=self._heartbeat,
            resting=lambda: False,
            learn_cluster=lambda _cluster: None,
            spawn=self._spawn,
            log=log,
        )

    async def start(self) -> None:
        self.dataplane.start(self._take)
        await self.replicas.open_all()
        self.cluster.network.services[self.name] = self.service
        self._spawn(self.link.heartbeats(), "heartbeats")
        self._spawn(self.link.subscription(), "subscription")

    def kill(self) -> None:
        """SIGKILL: nothing more is done or said."""
        self.cluster.network.services.pop(self.name, None)
        self.cluster.master._streams.pop(self.name, None)
        for volume in self.replicas:
            if volume.primacy is not None:
                volume.primacy.over = True
                for task in volume.primacy._tasks:
                    task.cancel()
                if volume.primacy._timer is not None:
                    volume.primacy._timer.cancel()
        for task in self._tasks:
            task.cancel()
        self.dataplane.kill()

    @property
    def gate_open(self) -> bool:
        volume = self.dataplane._volumes.get(VOLUME)
        return volume is not None and volume.gate_open

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=f"{self.name}:{name}")
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.cluster.failures.append(task.exception())

    def _urge(self) -> None:
        self.link.urge()

    def _take(self, event: CoreEvent) -> None:
        if isinstance(event, GrantLinkLost):
            self.grants.lost(event.node_key)
            return
        assert not isinstance(event, PageDamaged)
        volume = self.replicas.find(event.volume_id)
        if volume is not None:
            volume.take(event)

    async def _heartbeat(self, sequence: int) -> Heartbeat:
        slots = []
        for volume in self.replicas:
            status = await self.dataplane.status(volume.volume_id)
            volume.observe(status)
            slots.append(slot_fact(volume, status, self.me))
        return Heartbeat(
            node_id=self.me.node_id,
            incarnation=1,
            sequence=sequence,
            data_addr=self.me.data_addr,
            ctrl_addr=self.me.ctrl_addr,
            iscsi_addr=self.me.iscsi_addr,
            pool_total_bytes=1 << 40,
            pool_free_bytes=1 << 40,
            slots=tuple(slots),
        )


class Cluster:
    """Nodes ``na``, ``nb``, ``nc`` with replicas a, b, c of one volume."""

    def __init__(self, replicas: str = "abc") -> None:
        self.replicas = replicas
        self.fabric = Fabric()
        self.network = Network(self.fabric)
        self.master = FakeMaster()
        self.pools = {f"n{r}": ModelPool() for r in replicas}
        self.nodes: dict[str, ModelNode] = {}
        self.failures: list[BaseException | None] = []

    async def start(self, *, min_in_sync: int = 1) -> None:
        """Format every replica, bind the first one, wait until it serves."""
        for r in self.replicas:
            self.master.hosts[f"n{r}"] = HostReplica(
                volume_id=VOLUME, replica_id=ReplicaId(r), size_bytes=SIZE, block_size=512
            )
            await self.up(r)
        await self.until(lambda: len(self.uuids()) == len(self.replicas))
        first = self.replicas[0]
        self.mint(1, 1, first, self.replicas, min_in_sync=min_in_sync)
        await self.until(lambda: self.node(first).gate_open)

    async def up(self, replica: str) -> ModelNode:
        """Start (or start again) the node of a replica."""
        node = ModelNode(f"n{replica}", self)
        self.nodes[f"n{replica}"] = node
        await node.start()
        return node

    def kill(self, replica: str) -> None:
        self.node(replica).kill()

    def node(self, replica: str) -> ModelNode:
        return self.nodes[f"n{replica}"]

    def uuids(self) -> dict[str, ReplicaUuid]:
        return {
            r: self.pools[f"n{r}"].files[VOLUME].uuid
            for r in self.replicas
            if VOLUME in self.pools[f"n{r}"].files
        }

    def mint(
        self, epoch: int, version: int, primary: str, in_sync: str, *, min_in_sync: int = 1
    ) -> None:
        known = self.master.line
        uuids = self.uuids()
        self.master.mint(
            Line(
                volume_id=VOLUME,
                lineage=Lineage(epoch=Epoch(epoch), endpoint_version=EndpointVersion(version)),
                primary=ReplicaId(primary),
                members=known.members
                if known is not None
                else tuple(
                    Member(
                        replica_id=ReplicaId(r),
                        node_id=NodeId(f"n{r}"),
                        uuid=uuids[r],
                        data_addr=f"n{r}:data",
                        ctrl_addr=f"n{r}:ctrl",
                    )
                    for r in self.replicas
                ),
                in_sync=tuple(ReplicaId(r) for r in sorted(in_sync)),
                size_bytes=SIZE,
                block_size=512,
                replication_factor=len(self.replicas),
                min_in_sync=min_in_sync,
                master_generation=1,
                write_seq=1,
            )
        )

    @property
    def line(self) -> Line:
        assert self.master.line is not None
        return self.master.line

    @property
    def in_sync(self) -> str:
        return "".join(self.line.in_sync)

    async def until(self, condition: Callable[[], bool], *, within: float = 30.0) -> float:
        """Wait on virtual time; returns how long it took."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while not condition():
            self.check()
            assert loop.time() < began + within, "it did not happen in time"
            await asyncio.sleep(0.005)
        return loop.time() - began

    async def idle(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        self.check()

    def check(self) -> None:
        """What must hold at every moment: at most one gate is open, and no task failed."""
        gates = [name for name, node in self.nodes.items() if node.gate_open]
        assert len(gates) <= 1, f"two primaries serve: {gates}"
        if self.failures:
            raise AssertionError("a task failed") from self.failures[0]

    def pages(self, replica: str) -> dict[int, bytes]:
        log = self.pools[f"n{replica}"].files[VOLUME].log
        return log.view(log.last_lsn)

    async def write(self, replica: str, page: int, data: bytes) -> None:
        await self.node(replica).dataplane.write(VOLUME, page, data)
        self.check()


Story = Callable[[Cluster], Coroutine[Any, Any, None]]


def play(story: Story, replicas: str = "abc") -> None:
    """Start a cluster of these replicas on virtual time, and kill it when the story is told."""

    async def whole() -> None:
        cluster = Cluster(replicas)
        try:
            await cluster.start()
            await story(cluster)
        finally:
            for node in cluster.nodes.values():
                node.kill()

    run_virtual(whole())
