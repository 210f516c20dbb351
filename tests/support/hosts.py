"""Hosts on a stage that reserve the volume over SCSI and write to it; what nodes make of that is production's code."""

from __future__ import annotations

import asyncio
import errno
import struct
from dataclasses import dataclass
from typing import Final

from sparrow.base.errors import OutcomeUnknown, SparrowError
from sparrow.base.ids import NodeId
from sparrow.dataplane.events import Mail
from sparrow.formats.reservations import (
    RESERVATION_WRITE_EXCLUSIVE_RO,
    ReservationNexus,
    ReservationTable,
)
from sparrow.frontends.reservations.machine import Change
from sparrow.frontends.scsi.cdb import CDB_BYTES_MAX, Op
from sparrow.frontends.scsi.cold import Reserved, change_reservations, check_condition
from sparrow.frontends.scsi.persistent import Asker
from sparrow.frontends.scsi.sense import TIMEOUT_DURING_PROCESSING, TRANSITION, ScsiAnswer, Status
from sparrow.node.forwarding import Pinned
from sparrow.node.units import unit_of
from sparrow.sim.compiled.client import RUN_MAX
from sparrow.sim.compiled.content import page_of, value_of
from sparrow.sim.node import SimNode
from tests.support.compiled import CompiledStage
from tests.support.core_reservations import nexus
from tests.support.stage import V

#: Pages that the clients of a stage leave alone; as many follow as an entry has.
OWN_PAGE: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """An iSCSI initiator with a path to every node.

    Attributes:
        key: it registers with.
    """

    stage: CompiledStage
    name: str
    key: int

    @property
    def nexus(self) -> ReservationNexus:
        return nexus(self.name)

    # ------------------------------------------------------------ PERSISTENT RESERVE OUT

    def register(self, at: NodeId) -> asyncio.Task[ScsiAnswer]:
        return self._send(at, Op.REGISTER_AND_IGNORE, other=self.key)

    def reserve(self, at: NodeId) -> asyncio.Task[ScsiAnswer]:
        """Registrants write, nobody else."""
        return self._send(at, Op.RESERVE)

    def preempt(self, at: NodeId, victim: Host) -> asyncio.Task[ScsiAnswer]:
        return self._send(at, Op.PREEMPT, other=victim.key)

    def _send(self, at: NodeId, op: Op, *, other: int = 0) -> asyncio.Task[ScsiAnswer]:
        opcode, action = op.value
        data = struct.pack(">QQ8x", self.key, other)
        kind = int(RESERVATION_WRITE_EXCLUSIVE_RO)
        cdb = struct.pack(">BBB2xIx", opcode, action, kind, len(data)).ljust(CDB_BYTES_MAX, b"\0")
        node = self.stage.node(at)
        task: asyncio.Task[ScsiAnswer] = node.process.spawn(
            self._carried_out(node, cdb, data), "persistent reserve"
        )
        return task

    async def _carried_out(self, node: SimNode, cdb: bytes, data: bytes) -> ScsiAnswer:
        """As ``node.upcalls`` has it done, but for sessions, of which there are none here."""
        volume = node.replicas.get(V)
        unit = unit_of(volume, "", gate_open=True, primary_lives=True)
        asker = Asker(nexus=self.nexus, port=unit.relative_port)

        def decide(table: ReservationTable) -> tuple[ScsiAnswer, Change]:
            return change_reservations(cdb, data, unit, Reserved(table=table, asker=asker))

        try:
            if node.forwarding.wanted(volume):
                command = Pinned(dataplane=node.dataplane, session_key=0, tag=0, taken=True)
                return await node.forwarding.change(volume, asker, cdb, data, command)
            return await node.reservations.change(V, decide)
        except OutcomeUnknown:
            return check_condition(TIMEOUT_DURING_PROCESSING)
        except SparrowError:
            return check_condition(TRANSITION)

    # ------------------------------------------------------------ PERSISTENT RESERVE IN

    def sees(self, at: NodeId) -> asyncio.Task[ReservationTable | None]:
        """The table that is shown there; None when none is."""
        node = self.stage.node(at)
        task: asyncio.Task[ReservationTable | None] = node.process.spawn(
            self._table(node), "persistent reserve"
        )
        return task

    async def _table(self, node: SimNode) -> ReservationTable | None:
        volume = node.replicas.get(V)
        try:
            if node.forwarding.wanted(volume):
                return await node.forwarding.table(volume)
            return await node.reservations.table(V)
        except SparrowError:
            return None

    # ------------------------------------------------------------ data

    def write(
        self, at: NodeId, value: int, *, page: int = OWN_PAGE, skip: int = 0
    ) -> asyncio.Future[Mail]:
        """One page, or what follows ``skip`` bytes of it."""
        answer = self.stage.plane(at).submit(
            V, "write", page, 1, page_of(page, value), skip=skip, nexus=self.nexus.record()
        )
        assert answer is not None
        return answer

    def written(self, at: NodeId, value: int) -> bool:
        """Whether a write was taken; False when a reservation forbade it."""
        answer = self.write(at, value)
        self.stage.until(answer.done)
        assert answer.result().rc in (0, -errno.EPERM)
        return answer.result().rc == 0

    def read(self, at: NodeId) -> int | None:
        """The value that the page has now; None when it is none of ours."""
        answer = self.stage.plane(at).submit(V, "read", OWN_PAGE, 1, nexus=self.nexus.record())
        assert answer is not None
        self.stage.until(answer.done)
        assert answer.result().rc == 0
        return value_of(OWN_PAGE, answer.result().payload)

    def fill_log(self, at: NodeId) -> None:
        """Write until all that the log holds now is gone."""
        plane = self.stage.plane(at)
        head = self.stage.look(at).head
        data = b"".join(page_of(page, 1) for page in range(OWN_PAGE, OWN_PAGE + RUN_MAX))
        while plane.direct.tail_lsn(plane._volumes[V].index) <= head:
            answer = plane.submit(V, "write", OWN_PAGE, RUN_MAX, data, nexus=self.nexus.record())
            assert answer is not None
            self.stage.until(answer.done)
            assert answer.result().rc == 0


def done(stage: CompiledStage, task: asyncio.Task[ScsiAnswer]) -> None:
    """It is answered, and well."""
    stage.until(task.done)
    assert task.result().status is Status.GOOD
