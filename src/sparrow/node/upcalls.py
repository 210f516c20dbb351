"""Commands of iSCSI sessions that the core hands up: cold SCSI commands, text, odd task management."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.errors import SparrowError
from sparrow.frontends.iscsi.discovery import answer_text
from sparrow.frontends.iscsi.pdu import BHS_BYTES, FINAL, Opcode, Pdu
from sparrow.frontends.iscsi.requests import TextRequest
from sparrow.frontends.iscsi.responses import Reject, RejectReason, TextResponse
from sparrow.frontends.iscsi.text import TextExchange
from sparrow.frontends.scsi.cold import execute, page_wanted
from sparrow.frontends.scsi.sense import Status
from sparrow.frontends.scsi.unit import LogicalUnit, UnitState
from sparrow.node.iscsi import IscsiPortal, LivingSession, port_group
from sparrow.node.replicas import Replicas
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane, Upcall

#: Task management response "function not supported". Source: RFC 7143, 11.6.1.
NOT_SUPPORTED: Final = 5
#: Pages that one GET LBA STATUS looks at: 1 GiB. It tells how far it came, and initiators ask on.
STATES_MAX: Final = 262144
_TASK_MANAGEMENT_RESPONSE: Final = struct.Struct(">BBB13xI28x")


class Upcalls:
    """Answers what the core asks; only what needs the states of pages is waited for, by a task of its own."""

    def __init__(
        self,
        *,
        replicas: Replicas,
        portal: IscsiPortal,
        dataplane: DataPlane,
        cluster_id: Callable[[], str],
        log: FilteringBoundLogger,
    ) -> None:
        self._replicas = replicas
        self._portal = portal
        self._dataplane = dataplane
        self._cluster_id = cluster_id
        self._log = log
        self._texts: dict[int, TextExchange] = {}
        self._looking: set[asyncio.Task[None]] = set()

    def take(self, upcall: Upcall) -> None:
        """Answer one command."""
        opcode = upcall.header[0] & 0x3F
        living = self._portal.session(upcall.session_key)
        volume = self._replicas.find(upcall.volume_id)
        if living is None or volume is None:
            return  # it is ending; the core drops its commands
        try:
            if opcode == Opcode.SCSI_COMMAND:
                self._scsi(upcall, volume)
            elif opcode == Opcode.TEXT_REQUEST:
                self._text(upcall, living)
            elif opcode == Opcode.TASK_MANAGEMENT_REQUEST:
                self._task_management(upcall)
            else:
                self._reject(upcall, RejectReason.COMMAND_NOT_SUPPORTED)
        except SparrowError as error:
            self._log.info(
                names.CALL_FAILED, call="upcall", volume=upcall.volume_id, cause=str(error)
            )
            self._reject(upcall, RejectReason.PROTOCOL_ERROR)

    def ended(self, session_key: int) -> None:
        """Forget a session."""
        self._texts.pop(session_key, None)

    def _scsi(self, upcall: Upcall, volume: Volume) -> None:
        lun = int.from_bytes(upcall.header[8:16], "big")
        page = page_wanted(upcall.header[32:48], self._unit(upcall, volume), lun=lun)
        if page is None:
            self._answer(upcall, volume)
            return
        task = asyncio.get_running_loop().create_task(self._look(upcall, volume, page))
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _look(self, upcall: Upcall, volume: Volume, page: int) -> None:
        """Ask for the states of pages from one on, then answer; the gate is looked at anew afterwards."""
        try:
            states = await self._dataplane.page_states(
                volume.volume_id, first_page=page, page_count=STATES_MAX
            )
        except SparrowError as error:
            self._log.info(
                names.CALL_FAILED, call="page states", volume=upcall.volume_id, cause=str(error)
            )
            self._dataplane.answer(
                upcall.session_key, upcall.tag, status=int(Status.BUSY), sense=b"", data_in=b""
            )
            return
        # Time has passed: what the gate was when the core asked is not enough.
        upcall = replace(upcall, gate_open=upcall.gate_open and volume.gate_open)
        self._answer(upcall, volume, states)

    def _unit(self, upcall: Upcall, volume: Volume) -> LogicalUnit:
        return unit_of(
            volume,
            self._cluster_id(),
            gate_open=upcall.gate_open,
            primary_lives=upcall.primary_lives,
        )

    def _answer(
        self, upcall: Upcall, volume: Volume, states: tuple[tuple[int, bool], ...] = ()
    ) -> None:
        answer = execute(
            upcall.header[32:48],
            upcall.data,
            self._unit(upcall, volume),
            lun=int.from_bytes(upcall.header[8:16], "big"),
            states=states,
        )
        self._dataplane.answer(
            upcall.session_key,
            upcall.tag,
            status=int(answer.status),
            sense=answer.sense,
            data_in=answer.data_in,
        )

    def _text(self, upcall: Upcall, living: LivingSession) -> None:
        session = living.session
        exchange = self._texts.setdefault(
            upcall.session_key,
            TextExchange(segment_bytes_max=session.parameters.initiator_segment_bytes_max),
        )
        request = TextRequest.decode(Pdu(bhs=upcall.header, data=upcall.data))
        step = exchange.step(
            request,
            lambda pairs: answer_text(
                pairs,
                directory=self._portal.directory(self._portal.addresses[0]),
                initiator_name=session.initiator_name,
                own_target=session.target_name,
            ),
        )
        response = TextResponse(
            final=step.final,
            continued=step.continued,
            lun=request.lun,
            task_tag=request.task_tag,
            transfer_tag=step.transfer_tag,
            # The core fills in the sequence numbers.
            stat_sn=0,
            exp_cmd_sn=0,
            max_cmd_sn=0,
            text=step.text,
        ).encode()
        self._dataplane.answer_raw(upcall.session_key, upcall.tag, response[:BHS_BYTES], step.text)

    def _task_management(self, upcall: Upcall) -> None:
        """Those the core does not know: warm and cold reset, task reassign."""
        (task_tag,) = struct.unpack_from(">I", upcall.header, 16)
        header = _TASK_MANAGEMENT_RESPONSE.pack(
            Opcode.TASK_MANAGEMENT_RESPONSE, FINAL, NOT_SUPPORTED, task_tag
        )
        self._dataplane.answer_raw(upcall.session_key, upcall.tag, header, b"")

    def _reject(self, upcall: Upcall, reason: RejectReason) -> None:
        pdu = Reject(
            reason=reason, stat_sn=0, exp_cmd_sn=0, max_cmd_sn=0, header=upcall.header
        ).encode()
        self._dataplane.answer_raw(upcall.session_key, upcall.tag, pdu[:BHS_BYTES], upcall.header)


def unit_of(
    volume: Volume, cluster_id: str, *, gate_open: bool, primary_lives: bool
) -> LogicalUnit:
    """LUN 0 as this node shows it now; the gate and the primary as the core knew them when it was asked."""
    group = port_group(volume)
    return LogicalUnit(
        volume_id=volume.volume_id,
        cluster_id=cluster_id,
        size_bytes=volume.size_bytes,
        block_bytes=volume.block_size,
        state=unit_state(volume, gate_open=gate_open, primary_lives=primary_lives),
        port_group=group,
        relative_port=group,
    )


def unit_state(volume: Volume, *, gate_open: bool, primary_lives: bool) -> UnitState:
    """What the gate allows, in the words of SCSI; only an open gate is ever called optimized.

    STANDBY sends an initiator elsewhere until its next polling interval, so it is said only while a primary is known
    to live: one that holds our grant. Otherwise something is about to change, and the path is worth another look.
    """
    line = volume.known_line
    failed = volume.disk_failed and not volume.frozen
    if failed and line is not None and line.replication_factor == 1:
        return UnitState.FAILED
    if volume.primacy is None:
        standby = line is not None and line.primary != volume.replica_id
        return UnitState.STANDBY if standby and primary_lives else UnitState.TRANSITIONING
    if not gate_open:
        return UnitState.TRANSITIONING
    assert line is not None
    if len(line.in_sync) < line.min_in_sync:
        return UnitState.WRITES_HELD
    return UnitState.NO_SPACE if volume.pool_full else UnitState.OPTIMIZED
