"""Reservations of the volumes this node is primary of: read the table, decide, log the next one, tell who is concerned.

A change is decided from the newest logged table and logged in its place only if that is still the newest; it is
answered when it has committed. One change of a volume at a time, so that decisions do not chase each other.

A change that is logged and does not commit ends with OutcomeUnknown after as long as writes are held. It may commit
later, here or at a successor, so it is never answered by a word that says it was not carried out. Over iSCSI it is
CHECK CONDITION with ABORTED COMMAND, COMMAND TIMEOUT DURING PROCESSING (2Eh/02h): the command was begun, and trying it
again may or may not find it done. BUSY would say that it was not accepted (SAM-5, 5.3.1), and Linux sends such a
command again by itself: an initiator whose PREEMPT was carried out after all would be told RESERVATION CONFLICT by that
second one, and nothing else. A command of a user that ends with CHECK CONDITION it does not send again; who sent it
reads the keys, and knows. Over NVMe it is Command Interrupted, which says as much. A change that was never logged ends
with Unavailable, which is BUSY, and true.

Whoever lost something by what others did is told by every node at which it has a session, when the table commits there:
by the primary, by a successor that commits what it inherited, and on the paths of the others. The node that made the
change knows whom it concerns; the others see it by the table before (``machine.notices``).

RESERVE(6) ends with the session that made it. A failover ends sessions too: a new primary ends a reservation of that
kind whose holder has no session here. It must not stay when that session ends at any other moment:

    before the command is logged         the core logs it no more (Withdrawn)
    logged, not committed                the core ends the session after the change, so the table is known by then; when
                                         its outcome is unknown that is over, and the table is looked at when it commits
    while nothing can be changed         ending it is tried again as long as this node serves
    before the gate opens                the table is looked at when it opens
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, Final, TypeVar

from structlog.typing import FilteringBoundLogger

from sparrow.base import events as names
from sparrow.base.errors import OutcomeUnknown, SparrowError, Unavailable
from sparrow.base.ids import VolumeId
from sparrow.formats.reservations import (
    ReservationNexus,
    ReservationTable,
    decode_table,
    encode_table,
)
from sparrow.frontends.reservations.machine import Change, Notice, notices, reserve_ended
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
#: Ends the commands that this node's sessions of a nexus have under way; returns when the core has.
Ender = Callable[[VolumeId, ReservationNexus], Awaitable[None]]


async def _patiently(work: Callable[[], Awaitable[Result]], *, until: float) -> Result:
    """Try again for a while what is not possible now: a gate that may open again, tables that are not applied yet.

    Nothing tells when it is, so it is asked for in growing steps.

    Raises: Unavailable (still not), and what else ``work`` raises.
    """
    loop = asyncio.get_running_loop()
    pause = PAUSE_S
    while True:
        try:
            return await work()
        except Unavailable:
            if loop.time() >= until:
                raise
        await asyncio.sleep(pause)
        pause = min(2 * pause, PAUSE_MAX_S)


async def abort_commands(dataplane: DataPlane, session_keys: Iterable[int]) -> None:
    """Have the commands of these connections ended, however much other mail the core has; returns when they are."""
    for key in session_keys:
        while True:
            try:
                await dataplane.abort_commands(key)
            except Unavailable:
                await asyncio.sleep(PAUSE_S)
            else:
                break


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
        #: The newest table of each volume that committed here.
        self._newest: dict[VolumeId, ReservationTable] = {}
        #: What this node logged and was not told of yet: the blob, and whom it concerns.
        self._logged: dict[VolumeId, tuple[bytes, Change]] = {}
        self._tellers: list[Teller] = []
        self._enders: list[Ender] = []
        #: Commands that are being ended for a change that committed; its answer waits for that.
        self._aborting: dict[VolumeId, asyncio.Task[None]] = {}
        self._has_session: Callable[[VolumeId, ReservationNexus], bool] = lambda _volume, _nexus: (
            False
        )

    def watch(self, teller: Teller, ender: Ender) -> None:
        """Have initiators told of what others did, and their commands ended where that was asked for."""
        self._tellers.append(teller)
        self._enders.append(ender)

    def sessions(self, has_session: Callable[[VolumeId, ReservationNexus], bool]) -> None:
        """Who knows whether an initiator has a session here."""
        self._has_session = has_session

    # ------------------------------------------------------------ for frontends

    async def table(self, volume_id: VolumeId) -> ReservationTable:
        """The newest table, committed. Raises: StaleEpoch (this node does not serve), Unavailable."""

        def look(table: ReservationTable) -> tuple[ReservationTable, Change]:
            return table, Change()

        return await _patiently(lambda: self._change(volume_id, look), until=self._deadline())

    async def change(
        self,
        volume_id: VolumeId,
        decide: Callable[[ReservationTable], tuple[Result, Change]],
        *,
        session_key: int = 0,
        tag: int = 0,
        by_ns: int = 0,
    ) -> Result:
        """Carry out a change; returns what was decided with it once it has committed and others were told.

        Args:
            decide: from a table to an answer and a change; called again when the table is not the newest any more.
            session_key: with ``tag``, the upcall that asks for it; 0: nobody does.
            by_ns: of the core's boot clock; it is logged before that, or not at all. 0: there is no such time.
        Raises: OutcomeUnknown (it may still be done), StaleEpoch (this node does not serve), Unavailable, Withdrawn
            (who asked is gone, or it is too late), and what ``decide`` raises; with any of these but the first nothing
            was done.
        """
        until = self._deadline()
        lock = self._changing.setdefault(volume_id, asyncio.Lock())
        try:
            # Those before it may each wait as long.
            async with asyncio.timeout_at(until):
                await lock.acquire()
        except TimeoutError:
            raise Unavailable(f"Other changes of reservations of {volume_id} wait.") from None
        try:
            return await _patiently(
                lambda: self._change(
                    volume_id, decide, session_key=session_key, tag=tag, by_ns=by_ns
                ),
                until=until,
            )
        finally:
            lock.release()

    def _deadline(self) -> float:
        return asyncio.get_running_loop().time() + self._patience_s

    async def _change(
        self,
        volume_id: VolumeId,
        decide: Callable[[ReservationTable], tuple[Result, Change]],
        *,
        session_key: int = 0,
        tag: int = 0,
        by_ns: int = 0,
    ) -> Result:
        for _look in range(LOOKS_MAX):
            lsn, blob = await self._dataplane.reservations(volume_id)
            table = ReservationTable() if blob is None else decode_table(blob)
            if table.by_reserve:
                # What was there when the replica was opened is told by nobody else.
                self._by_reserve[volume_id] = table.holder
            result, change = decide(table)
            if change.table is None:
                return result
            wanted = encode_table(change.table)
            # It may commit after nobody waits for it any more; who is concerned hears of it all the same.
            self._logged[volume_id] = wanted, change
            done = await self._dataplane.log_reservations(
                volume_id, lsn, wanted, session_key=session_key, tag=tag, by_ns=by_ns
            )
            if done is not None:
                aborting = self._aborting.get(volume_id)
                if aborting is not None:
                    # Whoever gives up waiting for the answer does not keep the commands.
                    await asyncio.shield(aborting)
                return result
            self._logged.pop(volume_id, None)
        raise Unavailable(f"The reservations of {volume_id} change all the time.")

    def changed(self, event: ReservationsChanged) -> None:
        """A table committed, here or at another primary."""
        table = decode_table(event.table)
        self._tell(event, table)
        self._watch_reserve(event.volume_id, table)

    def _tell(self, event: ReservationsChanged, table: ReservationTable) -> None:
        """Before the change is answered, where it is: the core tells of a table first."""
        volume_id = event.volume_id
        before = self._newest.get(volume_id)
        self._newest[volume_id] = table
        blob, change = self._logged.get(volume_id, (b"", Change()))
        concerned: tuple[tuple[ReservationNexus, Notice], ...] = ()
        if blob == event.table:
            del self._logged[volume_id]
            concerned = change.notices
            # Their commands were under way here, if anywhere: who made the change is primary.
            if change.aborted:
                self._abort(volume_id, change.aborted)
        elif before is not None:
            concerned = notices(before, table)
        for nexus, notice in concerned:
            for teller in self._tellers:
                teller(volume_id, nexus, notice)

    def _abort(self, volume_id: VolumeId, aborted: tuple[ReservationNexus, ...]) -> None:
        """Of one change at a time of a volume, but that one may commit late."""
        before = self._aborting.get(volume_id)

        async def end() -> None:
            if before is not None:
                await before
            for nexus in aborted:
                for ender in self._enders:
                    await ender(volume_id, nexus)

        def ended(task: asyncio.Task[None]) -> None:
            if self._aborting.get(volume_id) is task:
                del self._aborting[volume_id]

        task = asyncio.get_running_loop().create_task(end())
        self._aborting[volume_id] = task
        task.add_done_callback(ended)

    # ------------------------------------------------------------ RESERVE(6)

    def _watch_reserve(self, volume_id: VolumeId, table: ReservationTable) -> None:
        if not table.by_reserve or table.holder is None:
            self._by_reserve.pop(volume_id, None)
            return
        self._by_reserve[volume_id] = table.holder
        if not self._has_session(volume_id, table.holder):
            self.session_ended(volume_id, table.holder)

    def opened(self, volume_id: VolumeId) -> None:
        """This node serves the volume from now on."""
        self._spawn(self._end_abandoned(volume_id), "reservations")

    def session_ended(self, volume_id: VolumeId, nexus: ReservationNexus) -> None:
        """An initiator has no session here any more."""
        if self._by_reserve.get(volume_id) == nexus:
            self._spawn(self._end_abandoned(volume_id), "reservations")

    def was_reset(self, volume_id: VolumeId) -> None:
        """Somebody reset the unit, which somebody else had reserved, or was about to."""
        self._spawn(self._end_reset(volume_id), "reservations")

    async def _end_reset(self, volume_id: VolumeId) -> None:
        """End what RESERVE(6) made before the reset; what is being made by it comes first, what comes later waits."""
        try:
            await self.change(volume_id, lambda table: (None, reserve_ended(table)))
        except SparrowError as error:
            self._log_failure(volume_id, error)

    async def _end_abandoned(self, volume_id: VolumeId) -> None:
        """End what RESERVE(6) made if its holder has no session here; tried again while this node serves."""

        def decide(table: ReservationTable) -> tuple[None, Change]:
            if table.holder is None or self._has_session(volume_id, table.holder):
                return None, Change()
            return None, reserve_ended(table)

        tries = 0
        while True:
            try:
                await self.change(volume_id, decide)
            except (Unavailable, OutcomeUnknown) as error:
                if tries == 0:
                    self._log_failure(volume_id, error)
                tries += 1
                # Each has waited for as long as commands are held.
                await asyncio.sleep(PAUSE_MAX_S)
                continue
            except SparrowError as error:
                # Whoever serves the volume next looks when its gate opens.
                self._log_failure(volume_id, error)
            return

    def _log_failure(self, volume_id: VolumeId, error: SparrowError) -> None:
        self._log.info(names.CALL_FAILED, call="end of reserve", volume=volume_id, cause=str(error))
