"""A node's control side without disks: hosts what it is told, heartbeats, serves when its line says so.

It speaks to a real master over a real socket, and does at once what a real node needs time for. What a test wants
it to do badly is a public attribute.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace

from sparrow.authority.effects import HostReplica, Instruction, RemoveReplica, Synced
from sparrow.authority.types import (
    AssignmentFact,
    FrontendTarget,
    Line,
    RoleClaim,
    SlotFact,
    Term,
)
from sparrow.base.errors import SparrowError, Unavailable
from sparrow.base.ids import Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.rpc import methods
from sparrow.rpc.control_client import NodeControlClient
from sparrow.rpc.messages import (
    AskIntent,
    AskRequest,
    CopyInfo,
    Heartbeat,
    KeepCopyRequest,
    ReleaseReplicaAnswer,
    ReleaseReplicaRequest,
    VerifyProgress,
    VerifyRequest,
)
from sparrow.rpc.proof import CallJudge, Keys, guarded
from sparrow.rpc.server import Call, Server, stream, unary
from tests.support.waiting import WAIT_S

BEAT_S = 0.1
GIB = 1 << 30
_uuids = itertools.count(1)


class FakeNode:
    """One node; ``slots`` is what it reports, ``lines`` the newest line it was given of each volume."""

    def __init__(
        self, node_id: str, master: str, *, incarnation: int = 1, keys: Keys | None = None
    ) -> None:
        self.node_id = NodeId(node_id)
        self.incarnation = incarnation
        self.sequence = 0
        self.pool_free_bytes = 100 * GIB
        self.slots: dict[VolumeId, SlotFact] = {}
        #: Whether it makes volumes as long as is wanted.
        self.resizes = True
        self.lines: dict[VolumeId, Line] = {}
        self.facts: list[AssignmentFact] = []
        self.heard: list[Instruction] = []
        #: False: hosts nothing, removes nothing, serves nothing.
        self.obeys = True
        #: What NodePeer.Verify answers.
        self.verify: list[VerifyProgress] = []
        self.ctrl_addr = ""
        self.client = NodeControlClient(master, node_id=self.node_id, keys=keys)
        #: What NodePeer.ReleaseReplica was asked, and whether it refuses.
        self.released: list[ReleaseReplicaRequest] = []
        self.refuses_release = False
        #: Copies of the master's store it was told to keep, and whether it refuses.
        self.kept: list[KeepCopyRequest] = []
        self.refuses_copies = False
        routes = [
            stream(methods.VERIFY_ON_PRIMARY, self._verify),
            unary(methods.RELEASE_REPLICA, self._release),
            unary(methods.KEEP_COPY, self._keep),
        ]
        self._server = Server(routes if keys is None else guarded(routes, CallJudge(keys)))
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        self.ctrl_addr = await self._server.start("127.0.0.1:0")
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._beat()), loop.create_task(self._listen())]

    async def stop(self) -> None:
        """As a killed process: the stream breaks, no more heartbeats."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.client.close()
        await self._server.stop(grace_s=0)

    def heartbeat(self) -> Heartbeat:
        self.sequence += 1
        return Heartbeat(
            node_id=self.node_id,
            incarnation=self.incarnation,
            sequence=self.sequence,
            data_addr="127.0.0.1:1",
            ctrl_addr=self.ctrl_addr,
            iscsi_addr="127.0.0.1:2",
            pool_total_bytes=200 * GIB,
            pool_free_bytes=self.pool_free_bytes,
            slots=tuple(self.slots.values()),
        )

    async def beat(self) -> None:
        """One heartbeat now."""
        await self.client.heartbeat(self.heartbeat(), timeout_s=WAIT_S)

    async def ask_shrink(self, volume_id: VolumeId, replica_id: ReplicaId) -> object:
        """Ask as the primary of a volume to take a replica out."""
        return await self.ask(volume_id, replica_id, AskIntent.SHRINK_IN_SYNC)

    async def ask(self, volume_id: VolumeId, replica_id: ReplicaId, intent: AskIntent) -> object:
        """Ask as the primary of a volume, on the basis of the newest line heard."""
        line = self.lines[volume_id]
        request = AskRequest(
            volume_id=volume_id,
            intent=intent,
            replica_id=replica_id,
            asker=self.slots[volume_id].replica_id,
            basis=line.lineage,
            reason="lost",
        )
        return await self.send(request)

    async def send(self, request: AskRequest) -> object:
        """One ask; the line it is answered with is followed at once, also if the stream is slower."""
        answer = await self.client.ask(request, timeout_s=WAIT_S)
        if isinstance(answer, Line):
            self._follow(answer)
        return answer

    async def _beat(self) -> None:
        while True:
            with suppress(SparrowError):  # the master is away; the next beat tries again
                await self.beat()
            await asyncio.sleep(BEAT_S)

    async def _listen(self) -> None:
        while True:
            try:
                async with aclosing(
                    self.client.subscribe(self.node_id, self.incarnation)
                ) as instructions:
                    async for instruction in instructions:
                        self.heard.append(instruction)
                        if self.obeys:
                            self._obey(instruction)
            except SparrowError:
                await asyncio.sleep(BEAT_S)

    def _obey(self, instruction: Instruction) -> None:
        match instruction:
            case HostReplica():
                self._host(instruction)
            case AssignmentFact(line=line):
                self.facts.append(instruction)
                self._follow(line)
            case RemoveReplica(volume_id=volume_id):
                self.slots.pop(volume_id, None)
                self.lines.pop(volume_id, None)
            case Synced():
                pass

    def _host(self, wanted: HostReplica) -> None:
        if wanted.volume_id not in self.slots:
            self.slots[wanted.volume_id] = SlotFact(
                volume_id=wanted.volume_id,
                replica_id=wanted.replica_id,
                uuid=ReplicaUuid(f"{next(_uuids):032x}"),
                data_addr="127.0.0.1:1",
                ctrl_addr=self.ctrl_addr,
                ready_for_primary=True,
                size_bytes=wanted.size_bytes,
            )
        if self.resizes and wanted.size_wanted:
            slot = self.slots[wanted.volume_id]
            self.slots[wanted.volume_id] = replace(slot, size_bytes=wanted.size_wanted)

    def _follow(self, line: Line) -> None:
        held = self.lines.get(line.volume_id)
        if held is not None and held.lineage >= line.lineage:
            return
        self.lines[line.volume_id] = line
        slot = self.slots.get(line.volume_id)
        if slot is None:
            return
        primary = line.primary_member.node_id == self.node_id
        target = FrontendTarget(
            protocol="iscsi", addr="127.0.0.1:2", name=f"iqn.x:{line.volume_id}"
        )
        term = Term(epoch=line.lineage.epoch, start=1)
        self.slots[line.volume_id] = replace(
            slot,
            lineage=line.lineage,
            role_claim=RoleClaim.PRIMARY if primary else RoleClaim.NONE,
            gate_open=primary,
            term=term,
            last_term=term,
            last_lsn=Lsn(1),
            durable_lsn=Lsn(1),
            commit_lsn=Lsn(1),
            primary_silent_ms=None if primary else 0,
            frontends=(target,) if primary else (),
        )

    async def _release(self, request: ReleaseReplicaRequest, _call: Call) -> ReleaseReplicaAnswer:
        if self.refuses_release:
            raise Unavailable("not now")
        self.released.append(request)
        volume_id = request.line.volume_id
        self.slots[volume_id] = replace(self.slots[volume_id], state=request.state)
        return ReleaseReplicaAnswer(state=request.state)

    async def _keep(self, request: KeepCopyRequest, _call: Call) -> CopyInfo:
        if self.refuses_copies:
            raise Unavailable("no room")
        self.kept.append(request)
        return CopyInfo(
            cluster_id=request.cluster_id,
            heard_generation=request.master_generation,
            master_generation=request.master_generation,
            revision=request.revision,
        )

    async def _verify(self, request: VerifyRequest, call: Call) -> AsyncGenerator[VerifyProgress]:
        for one in self.verify:
            yield one
