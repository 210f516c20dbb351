"""Commands of iSCSI sessions that the core hands up: cold SCSI commands, text, odd task management."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.errors import OutcomeUnknown, SparrowError, StaleEpoch, Withdrawn
from sparrow.formats.reservations import ReservationTable
from sparrow.frontends.iscsi.discovery import answer_text
from sparrow.frontends.iscsi.pdu import BHS_BYTES, FINAL, Opcode, Pdu
from sparrow.frontends.iscsi.requests import TextRequest
from sparrow.frontends.iscsi.responses import Reject, RejectReason, TextResponse
from sparrow.frontends.iscsi.text import TextExchange
from sparrow.frontends.reservations.machine import Change
from sparrow.frontends.scsi.cold import (
    Reserved,
    carried,
    change_reservations,
    changes_reservations,
    check_condition,
    execute,
    page_wanted,
    table_wanted,
)
from sparrow.frontends.scsi.persistent import Asker
from sparrow.frontends.scsi.sense import (
    TIMEOUT_DURING_PROCESSING,
    TRANSITION,
    ScsiAnswer,
    Status,
)
from sparrow.frontends.scsi.unit import LogicalUnit, UnitState
from sparrow.node.forwarding import Forwarding, Pinned, ServedHere
from sparrow.node.iscsi import IscsiPortal, LivingSession
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.node.units import unit_of
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane, Upcall

#: Task management response "function not supported". Source: RFC 7143, 11.6.1.
NOT_SUPPORTED: Final = 5
#: Functions the core has carried out and tells of. Source: RFC 7143, 11.5.1.
RESETS: Final = (5, 6)
#: Pages that one GET LBA STATUS looks at: 1 GiB. It tells how far it came, and initiators ask on.
STATES_MAX: Final = 262144
_TASK_MANAGEMENT_RESPONSE: Final = struct.Struct(">BBB13xI28x")


class Upcalls:
    """Answers what the core asks; what needs states of pages or reservations waits, in a task of its own."""

    def __init__(
        self,
        *,
        replicas: Replicas,
        portal: IscsiPortal,
        dataplane: DataPlane,
        reservations: Reservations,
        forwarding: Forwarding,
        cluster_id: Callable[[], str],
        log: FilteringBoundLogger,
    ) -> None:
        self._replicas = replicas
        self._portal = portal
        self._dataplane = dataplane
        self._reservations = reservations
        self._forwarding = forwarding
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
                self._scsi(upcall, volume, living)
            elif opcode == Opcode.TEXT_REQUEST:
                self._text(upcall, living)
            elif opcode == Opcode.TASK_MANAGEMENT_REQUEST and upcall.header[1] & 0x7F in RESETS:
                self._reservations.was_reset(upcall.volume_id)
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

    def _scsi(self, upcall: Upcall, volume: Volume, living: LivingSession) -> None:
        cdb, lun = upcall.header[32:48], _lun(upcall)
        if carried(cdb, lun=lun) and self._forwarding.wanted(volume):
            self._begin(self._carry(upcall, volume, living))
            return
        unit = self._unit(upcall, volume)
        page = page_wanted(cdb, unit, lun=lun)
        if page is None and not table_wanted(cdb, unit, lun=lun):
            if changes_reservations(cdb):
                # Where the unit is not served the table does not matter; the answer is why not.
                asker = Asker(nexus=living.nexus, port=unit.relative_port)
                reserved = Reserved(table=ReservationTable(), asker=asker)
                answer, _ = change_reservations(cdb, upcall.data, unit, reserved, lun=lun)
                self._send(upcall, answer)
            else:
                self._answer(upcall, volume)
            return
        if changes_reservations(cdb):
            work = self._reserve(upcall, volume, living)
        else:
            work = self._look(upcall, volume, living, page)
        self._begin(work)

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._looking.add(task)
        task.add_done_callback(self._looking.discard)

    async def _carry(self, upcall: Upcall, volume: Volume, living: LivingSession) -> None:
        """PERSISTENT RESERVE on a path that does not serve: the primary's node answers it."""
        cdb, lun = upcall.header[32:48], _lun(upcall)
        # What the state of the unit is there, is said there.
        unit = replace(self._unit(upcall, volume), state=UnitState.OPTIMIZED)
        asker = Asker(nexus=living.nexus, port=unit.relative_port)
        command = Pinned(dataplane=self._dataplane, session_key=upcall.session_key, tag=upcall.tag)
        try:
            if changes_reservations(cdb):
                answer = await self._forwarding.change(volume, asker, cdb, upcall.data, command)
            else:
                reserved = Reserved(table=await self._forwarding.table(volume), asker=asker)
                answer = execute(cdb, upcall.data, unit, lun=lun, reserved=reserved)
            self._send(upcall, answer)
        except ServedHere:
            self._scsi(replace(upcall, gate_open=True), volume, living)
        except Withdrawn:
            return
        except OutcomeUnknown as error:
            self._log_failure(upcall, "change of reservations", error)
            self._send(upcall, check_condition(TIMEOUT_DURING_PROCESSING))
        except SparrowError as error:
            self._log_failure(upcall, "reservations at the primary", error)
            self._send(upcall, check_condition(TRANSITION))
        finally:
            await command.release()

    async def _look(
        self, upcall: Upcall, volume: Volume, living: LivingSession, page: int | None
    ) -> None:
        """Ask for the states of pages from one on, and for reservations, then answer; the gate is looked at anew."""
        cdb, lun = upcall.header[32:48], _lun(upcall)
        states: tuple[tuple[int, bool], ...] = ()
        reserved = None
        try:
            if page is not None:
                states = await self._dataplane.page_states(
                    volume.volume_id, first_page=page, page_count=STATES_MAX
                )
            unit = self._unit(upcall, volume)
            if table_wanted(cdb, unit, lun=lun):
                reserved = Reserved(
                    table=await self._reservations.table(volume.volume_id),
                    asker=Asker(nexus=living.nexus, port=unit.relative_port),
                )
        except StaleEpoch:
            upcall = replace(upcall, gate_open=False)
        except SparrowError as error:
            self._busy(upcall, "look for a command", error)
            return
        # Time has passed: what the gate was when the core asked is not enough.
        upcall = replace(upcall, gate_open=upcall.gate_open and volume.gate_open)
        self._answer(upcall, volume, states, reserved)

    async def _reserve(self, upcall: Upcall, volume: Volume, living: LivingSession) -> None:
        """Change reservations, then answer."""
        cdb, lun = upcall.header[32:48], _lun(upcall)
        unit = self._unit(upcall, volume)
        asker = Asker(nexus=living.nexus, port=unit.relative_port)

        def decide(table: ReservationTable) -> tuple[ScsiAnswer, Change]:
            reserved = Reserved(table=table, asker=asker)
            return change_reservations(cdb, upcall.data, unit, reserved, lun=lun)

        try:
            answer = await self._reservations.change(
                volume.volume_id, decide, session_key=upcall.session_key, tag=upcall.tag
            )
        except Withdrawn:
            return
        except OutcomeUnknown as error:
            self._log_failure(upcall, "change of reservations", error)
            answer = check_condition(TIMEOUT_DURING_PROCESSING)
        except StaleEpoch:
            # It does not serve: the same command is answered with why.
            unit = self._unit(replace(upcall, gate_open=False), volume)
            answer, _ = decide(ReservationTable())
        except SparrowError as error:
            self._busy(upcall, "change of reservations", error)
            return
        self._send(upcall, answer)

    def _busy(self, upcall: Upcall, call: str, error: SparrowError) -> None:
        self._log_failure(upcall, call, error)
        self._send(upcall, ScsiAnswer(status=Status.BUSY))

    def _log_failure(self, upcall: Upcall, call: str, error: SparrowError) -> None:
        self._log.info(names.CALL_FAILED, call=call, volume=upcall.volume_id, cause=str(error))

    def _unit(self, upcall: Upcall, volume: Volume) -> LogicalUnit:
        return unit_of(
            volume,
            self._cluster_id(),
            gate_open=upcall.gate_open,
            primary_lives=upcall.primary_lives,
        )

    def _answer(
        self,
        upcall: Upcall,
        volume: Volume,
        states: tuple[tuple[int, bool], ...] = (),
        reserved: Reserved | None = None,
    ) -> None:
        answer = execute(
            upcall.header[32:48],
            upcall.data,
            self._unit(upcall, volume),
            lun=_lun(upcall),
            states=states,
            reserved=reserved,
        )
        self._send(upcall, answer)

    def _send(self, upcall: Upcall, answer: ScsiAnswer) -> None:
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


def _lun(upcall: Upcall) -> int:
    return int.from_bytes(upcall.header[8:16], "big")
