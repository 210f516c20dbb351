"""Reservations of the volumes this node is primary of: read the table, decide, log the next one, tell who is concerned.

A change is decided from the newest logged table and logged in its place only if that is still the newest; it is
answered when it has committed. One change of a volume at a time, so that decisions do not chase each other.

RESERVE(6) ends with the session that made it. A failover ends sessions too: a new primary ends a reservation of that
kind whose holder has no session here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeVar

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.errors import SparrowError, Unavailable
from sparrow.base.ids import VolumeId
from sparrow.formats.reservations import (
    ReservationNexus,
    ReservationTable,
    decode_table,
    encode_table,
)
from sparrow.frontends.reservations.machine import Change, Notice, reserve_ended
from sparrow.ports.dataplane import DataPlane, ReservationsChanged

#: A change of this node's own is the only one there can be, so a second look is enough; more says something is wrong.
LOOKS_MAX: Final = 8

#: A command of reservations waits so long for a moment in which it is possible; then it ends with busy.
PATIENCE_S: Final = 4.0
PAUSE_S: Final = 0.005
PAUSE_MAX_S: Final = 0.1

Result = TypeVar("Result")
#: Tells a session of this node; called for every nexus concerned, whether it has one here or not.
Teller = Callable[[VolumeId, ReservationNexus, Notice], None]


async def _patiently(work: Callable[[], Awaitable[Result]], *, for_s: float) -> Result:
    """Try again for a while what is not possible now: a gate that may open again, tables that are not applied yet.

    Nothing tells when it is, so it is asked for in growing steps.

    Raises: Unavailable (still not), and what else ``work`` raises.
    """
    loop = asyncio.get_running_loop()
    until, pause = loop.time() + for_s, PAUSE_S
    while True:
        try:
            return await work()
        except Unavailable:
            if loop.time() >= until:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, PAUSE_MAX_S)


class Reservations:
    """The tables of this node's volumes, as frontends see them."""

    def __init__(
        self,
        dataplane: DataPlane,
        *,
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
        log: FilteringBoundLogger,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._patience_s = patience_s
        self._dataplane = dataplane
        self._spawn = spawn
        self._log = log
        self._changing: dict[VolumeId, asyncio.Lock] = {}
        #: Volumes that RESERVE(6) holds, as far as this node was told.
        self._by_reserve: dict[VolumeId, ReservationNexus | None] = {}
        self._tellers: list[Teller] = []
        self._has_session: Callable[[VolumeId, ReservationNexus], bool] = lambda _volume, _nexus: (
            False
        )

    def watch(self, teller: Teller) -> None:
        """Have initiators told of what others did."""
        self._tellers.append(teller)

    def sessions(self, has_session: Callable[[VolumeId, ReservationNexus], bool]) -> None:
        """Who knows whether an initiator has a session here."""
        self._has_session = has_session

    # ------------------------------------------------------------ for frontends

    async def table(self, volume_id: VolumeId) -> ReservationTable:
        """The newest table, committed. Raises: StaleEpoch (this node does not serve), Unavailable."""

        def look(table: ReservationTable) -> tuple[ReservationTable, Change]:
            return table, Change()

        return await _patiently(lambda: self._change(volume_id, look), for_s=self._patience_s)

    async def change(
        self, volume_id: VolumeId, decide: Callable[[ReservationTable], tuple[Result, Change]]
    ) -> Result:
        """Carry out a change; returns what was decided with it once it has committed and others were told.

        Args:
            decide: from a table to an answer and a change; called again when the table is not the newest any more.
        Raises: StaleEpoch (this node does not serve; nobody knows whether it was done), Unavailable (nothing was), and
            what ``decide`` raises.
        """
        async with self._changing.setdefault(volume_id, asyncio.Lock()):
            return await _patiently(lambda: self._change(volume_id, decide), for_s=self._patience_s)

    async def _change(
        self, volume_id: VolumeId, decide: Callable[[ReservationTable], tuple[Result, Change]]
    ) -> Result:
        for _look in range(LOOKS_MAX):
            lsn, blob = await self._dataplane.reservations(volume_id)
            table = ReservationTable() if blob is None else decode_table(blob)
            result, change = decide(table)
            if change.table is None:
                return result
            done = await self._dataplane.log_reservations(
                volume_id, lsn, encode_table(change.table)
            )
            if done is not None:
                self._tell(volume_id, change)
                return result
        raise Unavailable(f"The reservations of {volume_id} change all the time.")

    def _tell(self, volume_id: VolumeId, change: Change) -> None:
        for nexus, notice in change.notices:
            for teller in self._tellers:
                teller(volume_id, nexus, notice)

    # ------------------------------------------------------------ RESERVE(6)

    def changed(self, event: ReservationsChanged) -> None:
        """A table committed, here or at another primary."""
        table = decode_table(event.table)
        if table.by_reserve:
            self._by_reserve[event.volume_id] = table.holder
        else:
            self._by_reserve.pop(event.volume_id, None)

    def opened(self, volume_id: VolumeId) -> None:
        """This node serves the volume from now on."""
        self._spawn(self._end_reserve(volume_id, None), "reservations")

    def was_reset(self, volume_id: VolumeId) -> None:
        """Somebody reset the unit."""
        if volume_id in self._by_reserve:
            self._spawn(self._end_reserve(volume_id, self._by_reserve[volume_id]), "reservations")

    def session_ended(self, volume_id: VolumeId, nexus: ReservationNexus) -> None:
        """An initiator has no session here any more."""
        if self._by_reserve.get(volume_id) == nexus:
            self._spawn(self._end_reserve(volume_id, nexus), "reservations")

    async def _end_reserve(self, volume_id: VolumeId, holder: ReservationNexus | None) -> None:
        """End it if this is who holds it; None: whoever does and has no session here."""

        def decide(table: ReservationTable) -> tuple[None, Change]:
            if not table.by_reserve or table.holder is None:
                return None, Change()
            ends = (
                table.holder == holder
                if holder is not None
                else not self._has_session(volume_id, table.holder)
            )
            return None, reserve_ended(table) if ends else Change()

        try:
            await self.change(volume_id, decide)
        except SparrowError as error:
            # Whoever serves the volume next looks again.
            self._log.info(
                names.CALL_FAILED, call="end of reserve", volume=volume_id, cause=str(error)
            )
