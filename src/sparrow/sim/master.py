"""The master's process: its production loop, driver and control service on a store that survives it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from structlog.typing import FilteringBoundLogger

from sparrow.authority.loop import AuthorityLoop
from sparrow.authority.recovery import Recovered
from sparrow.authority.types import DesiredVolume, Line
from sparrow.base.ids import NodeId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord
from sparrow.master.authority_service import AuthorityService
from sparrow.master.control_service import ControlService
from sparrow.master.driver import Driver
from sparrow.master.inventory import Inventory
from sparrow.master.node_service import NodeService
from sparrow.master.node_states import NodeStates
from sparrow.master.reconciler import Reconciler
from sparrow.master.recover import AskNodes, Recovery
from sparrow.master.volume_service import VolumeService
from sparrow.rpc.messages import (
    AskAnswer,
    AskRequest,
    Heartbeat,
    HeartbeatAck,
    NodeInstruction,
    SubscribeRequest,
)
from sparrow.rpc.server import Call
from sparrow.sim.clock import Killed, Process
from sparrow.sim.network import Network
from sparrow.store.memory import MemoryDisk, MemoryStore

MASTER = "master"
#: Where the next master runs when the one before may still be alive; they take turns.
OTHER_MASTER = "master2"


class SimStore(MemoryStore):
    """The memory store, watched, of a process that can die in the middle of any change."""

    def __init__(
        self,
        disk: MemoryDisk,
        process: Process,
        durable: Callable[[Sequence[Line], Recovered | None], None],
    ) -> None:
        super().__init__(disk)
        self._process = process
        self._durable = durable
        #: Die in the next change: before it is durable, or after and before anybody heard.
        self.die_in_put = ""

    def put_lines(self, lines: Sequence[Line]) -> None:
        super().put_lines(lines)
        self._durable(lines, None)
        self._die("after")

    def put_recovered(self, recovered: Recovered) -> None:
        super().put_recovered(recovered)
        if recovered.line is not None:
            self._durable((recovered.line,), recovered)
        self._die("after")

    def put_node(self, record: NodeRecord) -> None:
        super().put_node(record)
        self._die("after")

    def create_volume(self, volume: DesiredVolume) -> None:
        super().create_volume(volume)
        self._die("after")

    def update_volume(self, volume: DesiredVolume) -> None:
        super().update_volume(volume)
        self._die("after")

    def delete_volume(self, volume_id: VolumeId) -> None:
        super().delete_volume(volume_id)
        self._die("after")

    def _before_change(self) -> None:
        self._die("before")
        super()._before_change()

    def _die(self, when: str) -> None:
        if self._process.alive and self.die_in_put == when:
            self._process.kill()
        if not self._process.alive:
            raise Killed


@dataclass(frozen=True, slots=True)
class SimCall(Call):
    """What the service may know of a call, without gRPC; ``context`` is the caller's name."""

    def time_left(self) -> float | None:
        return None

    def sender(self) -> str:
        return str(self.context)

    def peer(self) -> str:
        return str(self.context)


class LocalClock:
    """``ports.clock.Clock`` of one process."""

    def __init__(self, process: Process) -> None:
        self.now = process.clock


class SimMaster:
    """One boot of the master, put together as ``master.app`` does. Raises StorageError: the store does not allow it.

    Args:
        reign: how many masters were replaced before it.
        durable: told of every line the store took, and of the recovery it came by, if any.
        ask: how a recovery reaches the nodes.
    """

    def __init__(
        self,
        process: Process,
        disk: MemoryDisk,
        log: FilteringBoundLogger,
        durable: Callable[[Sequence[Line], Recovered | None], None],
        ask: AskNodes,
        *,
        reign: int,
    ) -> None:
        self.process = process
        self.reign = reign
        self.store = SimStore(disk, process, durable)
        volumes = self.store.load_volumes()
        clock = LocalClock(process)
        self.generation = self.store.raise_generation()
        self.authority = AuthorityLoop(
            self.store, master_generation=self.generation, now=clock.now()
        )
        self.driver = Driver(self.authority, self.store, clock, log)
        self.inventory = Inventory()
        self._desired = volumes.volumes
        self.states = NodeStates(self.store, log)
        self.reconciler = Reconciler(self.driver, self.inventory, self.store, self.states, log=log)
        self.recovery = Recovery(
            self.driver,
            self.inventory,
            self.store,
            generation=self.generation,
            log=log,
            ask=ask,
            recovered=self.reconciler.recovered,
        )
        self.service = ControlService(
            self.driver,
            self.inventory,
            self.store,
            cluster_id=disk.cluster_id,
            master_generation=self.generation,
            log=log,
        )
        self.volumes = VolumeService(
            self.driver,
            self.inventory,
            self.store,
            self.states,
            self.reconciler,
            awaited_nodes=lambda: self.recovery.awaited,
            log=log,
        )
        self.nodes = NodeService(self.driver, self.inventory, self.states, self.reconciler)
        self.authorities = AuthorityService(
            self.driver,
            self.recovery,
            self.store,
            master_generation=self.generation,
            volume_skips=volumes.skips,
            log=log,
        )

    def start(self, listen: Callable[[], None]) -> None:
        """Inside the process. Raises: StorageError."""
        self.driver.start(self._desired)
        self.recovery.quarantine_damaged()
        listen()
        self.reconciler.start()
        self.process.spawn(self.reconciler.run(), "reconciler")
        self.process.spawn(self.recovery.run(), "recovery")


class MasterFor:
    """``MasterCalls`` of one node over the network."""

    def __init__(self, network: Network, node: str) -> None:
        self._network = network
        self._node = node
        #: Where the master's address leads from here now.
        self.where: Callable[[], str] = lambda: MASTER
        #: What a stream that begins now must not fall behind.
        self.newest: Callable[[], Mapping[VolumeId, Line]] = dict
        #: Every line this node is told, before it acts on it; by a master of which reign, and whether by the
        #: subscription. Not by a master of which name: a late word of one that was replaced may come when the next but
        #: one has its name.
        self.on_line: Callable[[Line, int, bool], None] = lambda _line, _reign, _in_stream: None
        self.on_stale: Callable[[Line, int], None] = lambda _line, _reign: None

    async def heartbeat(self, heartbeat: Heartbeat, *, timeout_s: float) -> HeartbeatAck:
        call = SimCall(self._node)
        answer: HeartbeatAck = await self._network.call(
            self._node,
            self.where(),
            lambda master: master.service.heartbeat(heartbeat, call),
            timeout_s=timeout_s,
        )
        return answer

    async def subscribe(
        self, node_id: NodeId, incarnation: int
    ) -> AsyncGenerator[NodeInstruction, None]:
        request = SubscribeRequest(node_id=node_id, incarnation=incarnation, several=True)
        call = SimCall(self._node)
        floor, reign = dict(self.newest()), 0

        def answer(master: SimMaster) -> AsyncGenerator[tuple[NodeInstruction, ...], None]:
            nonlocal reign
            reign = master.reign
            return master.service.subscribe(request, call)

        stream = self._network.stream(self._node, self.where(), answer)
        try:
            async for instructions in stream:
                for instruction in instructions:
                    self._note(instruction, reign, in_stream=True)
                    line = getattr(instruction, "line", None)
                    if line is not None and _behind(line, floor.get(line.volume_id, line)):
                        self.on_stale(line, reign)
                    yield instruction
        finally:
            await stream.aclose()

    async def ask(self, request: AskRequest, *, timeout_s: float) -> AskAnswer:
        call = SimCall(self._node)
        reign = 0

        async def answer(master: SimMaster) -> AskAnswer:
            nonlocal reign
            reign = master.reign
            return await master.service.ask(request, call)

        told: AskAnswer = await self._network.call(
            self._node, self.where(), answer, timeout_s=timeout_s
        )
        self._note(told, reign, in_stream=False)
        return told

    def _note(self, told: Any, reign: int, *, in_stream: bool) -> None:
        for line in (
            told,
            *(getattr(told, name, None) for name in ("line", "recorded", "tombstone")),
        ):
            if isinstance(line, Line):
                self.on_line(line, reign, in_stream)


def _behind(line: Line, held: Line) -> bool:
    """A newer master may tell a lower epoch: what only a lost store held beyond it is known to nobody."""
    return (line.master_generation, line.lineage) < (held.master_generation, held.lineage)
