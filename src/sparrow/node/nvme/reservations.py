"""Commands of persistent reservations on I/O queues: the core hands them up, their answers go down."""

from __future__ import annotations

import asyncio

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.errors import SparrowError, StaleEpoch, Withdrawn
from sparrow.formats.nvme import NVME_SC_ANA_TRANSITION, NVME_SC_INTERRUPTED
from sparrow.formats.reservations import ReservationNexus, ReservationTable
from sparrow.frontends.nvme.reservations import REPORT, ReservationCommand, change, report
from sparrow.frontends.nvme.status import CommandRefused, Status
from sparrow.frontends.reservations import SERVED
from sparrow.frontends.reservations.machine import Change
from sparrow.node.reservations import Reservations
from sparrow.ports.dataplane import DataPlane, Upcall


class ReservationCommands:
    """Each is a task of its own until it is answered."""

    def __init__(
        self, dataplane: DataPlane, reservations: Reservations, log: FilteringBoundLogger
    ) -> None:
        self._dataplane = dataplane
        self._reservations = reservations
        self._log = log
        self._answering: set[asyncio.Task[None]] = set()

    def begin(self, upcall: Upcall, host: ReservationNexus) -> None:
        """Carry out a command of this host and answer it."""
        task = asyncio.get_running_loop().create_task(self._reserve(upcall, host))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _reserve(self, upcall: Upcall, host: ReservationNexus) -> None:
        data, status = b"", int(Status.SUCCESS)
        try:
            data = await self._carried_out(upcall, host)
        except CommandRefused as refusal:
            status = refusal.status
        except Withdrawn:
            return
        except StaleEpoch:
            status = int(NVME_SC_ANA_TRANSITION)
        except SparrowError as error:
            # Interrupted: it could not be done now, or nobody knows whether it is (node/reservations.py).
            self._log.info(
                names.CALL_FAILED, call="reservation", volume=upcall.volume_id, cause=str(error)
            )
            status = int(NVME_SC_INTERRUPTED)
        self._dataplane.answer(
            upcall.session_key, upcall.tag, status=status, sense=b"", data_in=data
        )

    async def _carried_out(self, upcall: Upcall, host: ReservationNexus) -> bytes:
        """Carry it out; data for the host. Raises: CommandRefused, SparrowError."""
        if not SERVED:
            raise CommandRefused(Status.INVALID_OPCODE)
        command = ReservationCommand.of(upcall.header, upcall.data)
        if command.opcode == REPORT:
            return report(command, await self._reservations.table(upcall.volume_id))

        def decide(table: ReservationTable) -> tuple[bytes, Change]:
            return b"", change(command, table, host)

        return await self._reservations.change(
            upcall.volume_id, decide, session_key=upcall.session_key, tag=upcall.tag
        )
