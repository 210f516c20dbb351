"""Builders of authority values, and a small cluster of made-up nodes around a real AuthorityLoop."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

from sparrow.authority.effects import (
    AskAnswer,
    Deliver,
    HostReplica,
    LogEvent,
    LoopEffect,
    RemoveReplica,
    VolumeGone,
    WakeAt,
)
from sparrow.authority.events import (
    HeartbeatReceived,
    LoopEvent,
    NodeAsk,
    StreamClosed,
    StreamOpened,
    Tick,
    TopologyChanged,
)
from sparrow.authority.loop import AuthorityLoop
from sparrow.authority.publisher import Publisher
from sparrow.authority.results import AskResult, Minted
from sparrow.authority.status import VolumeState
from sparrow.authority.types import (
    AckPolicy,
    Ask,
    AssignmentFact,
    DesiredVolume,
    Intent,
    Line,
    Lineage,
    Member,
    Observation,
    PlacedSlot,
    ReplicaState,
    RoleClaim,
    SlotFact,
    VolumePhase,
    VolumeShape,
)
from sparrow.base.constants import HEARTBEAT_S
from sparrow.base.ids import EndpointVersion, Epoch, Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.store.memory import MemoryDisk, MemoryStore

V = VolumeId("v1")


def lineage(epoch: int, endpoint_version: int) -> Lineage:
    return Lineage(epoch=Epoch(epoch), endpoint_version=EndpointVersion(endpoint_version))


def shape(rf: int = 3, min_in_sync: int | None = None) -> VolumeShape:
    least = min_in_sync if min_in_sync is not None else (2 if rf == 3 else 1)
    return VolumeShape(
        size_bytes=1 << 20, block_size=4096, replication_factor=rf, min_in_sync=least
    )


def member(number: int, **changes: Any) -> Member:
    values: dict[str, Any] = {
        "replica_id": f"r{number}",
        "node_id": f"n{number}",
        "uuid": f"{number:032x}",
        "data_addr": f"10.0.0.{number}:7000",
        "ctrl_addr": f"10.0.0.{number}:7001",
    }
    return Member(**{**values, **changes})


def members(count: int = 3) -> tuple[Member, ...]:
    return tuple(member(number) for number in range(1, count + 1))


def ask(intent: Intent, **values: Any) -> Ask:
    defaults: dict[str, Any] = {"volume_id": V, "replica_id": ReplicaId("r1"), "basis": None}
    return Ask(intent=intent, **{**defaults, **values})


def bind(rf: int = 3, *, primary: str = "r1", volume: str = "v1", **values: Any) -> Ask:
    return ask(
        Intent.BIND,
        volume_id=VolumeId(volume),
        replica_id=ReplicaId(primary),
        members=members(rf),
        shape=values.pop("shape", shape(rf)),
        **values,
    )


def shrink(line: Line, replica: str, **values: Any) -> Ask:
    return ask(
        Intent.SHRINK_IN_SYNC,
        volume_id=line.volume_id,
        replica_id=ReplicaId(replica),
        asker=values.pop("asker", line.primary),
        basis=values.pop("basis", line.lineage),
        **values,
    )


def grow(line: Line, replica: str, **values: Any) -> Ask:
    return ask(
        Intent.GROW_IN_SYNC,
        volume_id=line.volume_id,
        replica_id=ReplicaId(replica),
        asker=values.pop("asker", line.primary),
        basis=values.pop("basis", line.lineage),
        **values,
    )


def reassign(line: Line, replica: str, **values: Any) -> Ask:
    return ask(
        Intent.REASSIGN,
        volume_id=line.volume_id,
        replica_id=ReplicaId(replica),
        basis=values.pop("basis", line.lineage),
        **values,
    )


def minted(result: AskResult) -> Line:
    assert isinstance(result, Minted), result
    return result.line


def new_publisher(disk: MemoryDisk | None = None, **values: Any) -> Publisher:
    """A publisher on a memory store that was just booted."""
    store = MemoryStore(disk)
    publisher = Publisher(store, store.raise_generation(), **values)
    publisher.load()
    return publisher


@dataclass
class FakeNode:
    """A node that does as it is told at once, unless its fields say otherwise."""

    name: NodeId
    incarnation: int = 1
    sequence: int = 0
    up: bool = True
    stream_id: int | None = None
    died_at: float = 0.0
    slots: dict[VolumeId, SlotFact] = field(default_factory=dict)
    facts: list[AssignmentFact] = field(default_factory=list)
    #: Whether a primary opens its gate when told.
    opens: bool = True
    takes_orders: bool = True
    formats: int = 0


class FakeCluster:
    """Nodes n1.. around a loop, on a clock that jumps from one due moment to the next."""

    def __init__(self, nodes: int = 3, disk: MemoryDisk | None = None) -> None:
        self.now = 100.0
        self.disk = disk or MemoryDisk()
        self.nodes = {NodeId(f"n{i}"): FakeNode(name=NodeId(f"n{i}")) for i in range(1, nodes + 1)}
        self.log: list[LogEvent] = []
        self.gone: list[VolumeId] = []
        self.answers: dict[int, AskResult] = {}
        self.minted: list[Line] = []
        self._streams = 0
        self._tokens = 0
        self._beat_at = dict.fromkeys(self.nodes, self.now)
        self.boot()

    def boot(self, *volumes: DesiredVolume) -> None:
        """Start a master on what is on disk."""
        self.disk.crash()
        self.store = MemoryStore(self.disk)
        self.loop = AuthorityLoop(
            self.store, master_generation=self.store.raise_generation(), now=self.now
        )
        self.wake_at: float | None = None
        desired = self.store.load_volumes().volumes
        self._carry_out(self.loop.start(desired, self.now))
        for node in self.nodes.values():
            node.stream_id = None
            if node.up:
                self.subscribe(node.name)

    def create(
        self,
        volume: str = "v1",
        rf: int = 3,
        min_in_sync: int | None = None,
        *,
        ack: AckPolicy = AckPolicy.SYNC,
    ) -> VolumeId:
        volume_id = VolumeId(volume)
        desired = DesiredVolume(
            volume_id=volume_id,
            shape=replace(shape(rf, min_in_sync), ack=ack),
            slots=tuple(
                PlacedSlot(replica_id=ReplicaId(f"r{i}"), node_id=NodeId(f"n{i}"))
                for i in range(1, rf + 1)
            ),
        )
        self.store.create_volume(desired)
        self.step(TopologyChanged(changed=(desired,)))
        return volume_id

    def delete(self, volume_id: VolumeId) -> None:
        desired = self.loop.desired(volume_id)
        assert desired is not None
        leaving = replace(desired, phase=VolumePhase.DELETING)
        self.store.update_volume(leaving)
        self.step(TopologyChanged(changed=(leaving,)))

    def line(self, volume_id: VolumeId = V) -> Line:
        line = self.loop.publisher.line(volume_id)
        assert line is not None
        return line

    def node(self, number: int) -> FakeNode:
        return self.nodes[NodeId(f"n{number}")]

    def fact(self, number: int, volume_id: VolumeId = V, **changes: Any) -> None:
        """Change what a node says of its replica from now on."""
        node = self.node(number)
        node.slots[volume_id] = replace(node.slots[volume_id], **changes)

    def subscribe(self, name: NodeId) -> None:
        node = self.nodes[name]
        self._streams += 1
        node.stream_id = self._streams
        self.step(StreamOpened(node_id=name, incarnation=node.incarnation, stream_id=self._streams))

    def kill(self, number: int, *, silently: bool = False) -> None:
        """SIGKILL; ``silently`` leaves the stream open, as a cut network does."""
        node = self.node(number)
        node.up = False
        node.died_at = self.now
        if not silently and node.stream_id is not None:
            self.close_stream(number)

    def close_stream(self, number: int) -> None:
        node = self.node(number)
        stream_id, node.stream_id = node.stream_id, None
        assert stream_id is not None
        self.step(StreamClosed(node_id=node.name, stream_id=stream_id))

    def restart(self, number: int) -> None:
        node = self.node(number)
        node.up = True
        node.incarnation += 1
        node.sequence = 0
        for volume_id, fact in node.slots.items():
            node.slots[volume_id] = replace(fact, role_claim=RoleClaim.NONE, gate_open=False)
        self.subscribe(node.name)

    def beat(self, number: int) -> None:
        """One heartbeat now."""
        node = self.node(number)
        node.sequence += 1
        slots = tuple(self._silence(fact) for fact in node.slots.values())
        observation = Observation(
            node_id=node.name,
            incarnation=node.incarnation,
            sequence=node.sequence,
            received_at=self.now,
            slots=slots,
        )
        self.step(HeartbeatReceived(observation=observation))

    def beats(self) -> None:
        for name, node in self.nodes.items():
            if node.up:
                self.beat(int(name[1:]))

    def node_ask(self, number: int, wanted: Ask) -> AskResult | None:
        self._tokens += 1
        self.step(NodeAsk(token=self._tokens, node_id=self.node(number).name, ask=wanted))
        return self.answers.get(self._tokens)

    def run(self, seconds: float) -> None:
        """Let time pass: heartbeats of living nodes, and every wake-up the loop asked for."""
        end = self.now + seconds
        while True:
            due = [at for name, at in self._beat_at.items() if self.nodes[name].up]
            if self.wake_at is not None:
                due.append(self.wake_at)
            at = min(due, default=math.inf)
            if at > end:
                break
            self.now = max(self.now, at)
            beating = [n for n, t in self._beat_at.items() if self.nodes[n].up and t <= self.now]
            for name in beating:
                self._beat_at[name] = self.now + HEARTBEAT_S
                self.beat(int(name[1:]))
            if not beating:
                self.step(Tick())
        self.now = end
        for name, node in self.nodes.items():
            if not node.up:
                self._beat_at[name] = end

    def step(self, event: LoopEvent) -> list[LoopEffect]:
        effects = self.loop.step(event, self.now)
        self._carry_out(effects)
        return effects

    def logged(self, name: str) -> list[dict[str, object]]:
        return [one.fields for one in self.log if one.name == name]

    def _carry_out(self, effects: list[LoopEffect]) -> None:
        self.wake_at = None
        for effect in effects:
            match effect:
                case Deliver():
                    self._deliver(effect)
                case AskAnswer():
                    self.answers[effect.token] = effect.result
                case LogEvent():
                    self.log.append(effect)
                case VolumeGone():
                    self.gone.append(effect.volume_id)
                    self.store.delete_volume(effect.volume_id)
                case WakeAt():
                    self.wake_at = effect.at
                case _:
                    desired = self.loop.desired(effect.volume_id)
                    assert desired is not None
                    self.store.update_volume(desired)

    def _deliver(self, effect: Deliver) -> None:
        node = self.nodes[effect.node_id]
        if not node.up or not node.takes_orders or node.stream_id != effect.stream_id:
            return
        match effect.instruction:
            case HostReplica() as order:
                if order.volume_id not in node.slots:
                    node.formats += 1
                    node.slots[order.volume_id] = self._blank(node, order)
            case RemoveReplica() as order:
                node.slots.pop(order.volume_id, None)
            case AssignmentFact() as fact:
                node.facts.append(fact)
                self._act(node, fact.line)
            case _:
                pass

    def _act(self, node: FakeNode, line: Line) -> None:
        held = node.slots.get(line.volume_id)
        if held is None:
            return
        mine = line.primary == held.replica_id
        node.slots[line.volume_id] = replace(
            held,
            lineage=line.lineage,
            role_claim=RoleClaim.PRIMARY if mine else RoleClaim.NONE,
            gate_open=mine and node.opens,
        )

    def _blank(self, node: FakeNode, order: HostReplica) -> SlotFact:
        number = int(node.name[1:])
        return SlotFact(
            volume_id=order.volume_id,
            replica_id=order.replica_id,
            uuid=ReplicaUuid(f"{number:016x}{node.formats:016x}"),
            data_addr=f"10.0.0.{number}:7000",
            ctrl_addr=f"10.0.0.{number}:7001",
            ready_for_primary=True,
            state=ReplicaState.CLEAN,
        )

    def _silence(self, fact: SlotFact) -> SlotFact:
        line = self.loop.publisher.line(fact.volume_id)
        if line is None or line.retired or fact.lineage is None:
            return fact
        if fact.primary_silent_ms is not None and fact.primary_silent_ms < 0:
            return replace(fact, primary_silent_ms=None)
        if line.primary == fact.replica_id:
            return replace(fact, primary_silent_ms=None)
        primary = self.nodes[line.primary_member.node_id]
        silent = 10 if primary.up else int((self.now - primary.died_at) * 1000)
        return replace(fact, primary_silent_ms=silent)


def positions(last: int, *, durable: int | None = None, commit: int = 0, epoch: int = 1) -> Any:
    """Log positions as keyword arguments of a fact."""
    from sparrow.authority.types import Term

    return {
        "last_term": Term(epoch=Epoch(epoch), start=1),
        "last_lsn": Lsn(last),
        "durable_lsn": Lsn(last if durable is None else durable),
        "commit_lsn": Lsn(commit),
        "applied_lsn": Lsn(commit),
    }


def served(cluster: FakeCluster, volume: VolumeId = V) -> VolumeState:
    """How the volume does."""
    status = cluster.loop.status(volume, cluster.now)
    assert status is not None
    return status.state


def running(rf: int = 3, **values: int) -> FakeCluster:
    """A cluster whose volume is served."""
    cluster = FakeCluster(nodes=max(rf, 3))
    cluster.create(rf=rf, **values)
    cluster.run(1.0)
    assert cluster.line().lineage == lineage(1, 1)
    assert served(cluster) is VolumeState.HEALTHY
    return cluster
