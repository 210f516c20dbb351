"""PERSISTENT RESERVE on a path that does not serve: carried to the primary's node, and its answer carried back.

A device server in the standby state answers PERSISTENT RESERVE IN and OUT (SPC-4, 5.15.2.4.4): initiators register on
every path they have, and a path that becomes the one that serves must know them.

Safety argument.

*Who decides.* Not this node. What a table says, and what a command makes of it, is found where the command is sent, by
the code that answers the sessions there (``node/reservations.py``): it is read through the gate, decided from the
newest committed table, logged there only while that node serves, and answered when it has committed. A former primary
refuses by its gate, and so does a node that never was one, so it does not matter how old this node's idea of the
primary is. The command goes in the name of the initiator whose session it came through, with the relative target port
of this path.

*Once.* A command is sent again only where its answer says that nothing was logged.

*When it is over.* An initiator that was told that a command is gone, by task management or by a login that replaced its
session, must not meet a change of that command later (``_native/control/reserve.pyx``). So the command is pinned before
it is sent: from then on both wait for it, as they do for a change that is logged here. The primary cannot know when we
stop waiting, so it is told until when it may log: with the table that is asked for first comes its own clock, the
ticket, and no change is logged later than ``LOGGED_WITHIN_S`` after that. Its core looks at the clock in the turn in
which it would log, however long the command was on its way, or the process stood still. The clock of another node may
be days ahead or behind, so the command goes to the node that gave the ticket and to no other, though a newer primary be
known by then: it says that it does not serve, and the next one is asked for a ticket of its own. We have the ticket
later than it was given; so ``LOGGED_WITHIN_S`` after that a change without an answer is logged or never will be, and no
earlier is its command answered.

*What is said.* Without a ticket nothing was sent: NOT READY, transition, which is true and asks for another try. With
one, and without an answer, nobody here knows: the word for that is the primary's own (``node/reservations.py``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from sparrow.base.constants import FENCE_HOLD_S
from sparrow.base.errors import (
    NotFound,
    OutcomeUnknown,
    RemoteProtocolError,
    SparrowError,
    StaleEpoch,
    TimedOut,
    Unavailable,
    Unproven,
    Withdrawn,
)
from sparrow.base.ids import ReplicaId
from sparrow.formats.reservations import (
    RESERVATION_KIND_ISCSI,
    RESERVATION_REGISTRANT,
    ReservationTable,
    decode_registrant,
    decode_table,
    encode_table,
)
from sparrow.frontends.reservations.machine import Change
from sparrow.frontends.scsi.cdb import CDB_BYTES_MAX
from sparrow.frontends.scsi.cold import Reserved, carried, change_reservations, changes_reservations
from sparrow.frontends.scsi.persistent import Asker
from sparrow.frontends.scsi.sense import ScsiAnswer, Status
from sparrow.node.incoming import COUNTER_END, check_volume_id
from sparrow.node.replicas import Replicas
from sparrow.node.reservations import Reservations
from sparrow.node.units import unit_of
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DataPlane
from sparrow.rpc.messages import (
    ReservationChangeAnswer,
    ReservationChangeRequest,
    ReservationLook,
    ReservationLookRequest,
    ReservationOutcome,
)

#: From the ticket to the moment after which nothing is logged with it.
LOGGED_WITHIN_S: Final = 3.0
#: Clocks of two machines do not run at quite one rate.
MARGIN_S: Final = 0.25
#: A change that was logged at the last moment is answered when it has waited for its commit as long as a write does.
CHANGE_TIMEOUT_S: Final = LOGGED_WITHIN_S + FENCE_HOLD_S + MARGIN_S
LOOK_TIMEOUT_S: Final = 2.0
#: A primary is looked for so long: a failover is over by then.
PATIENCE_S: Final = 4.0
PAUSE_S: Final = 0.05
PAUSE_MAX_S: Final = 0.25
#: What can be done in less is not begun.
LAST_S: Final = 0.005
STATUSES: Final = frozenset(Status)
#: The longest parameter list that a session takes; the longest of any use has some 17 KiB.
LIST_BYTES_MAX: Final = 1 << 16


def boot_clock_ns() -> int:
    """The clock of the core's times."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class ReservationCalls(Protocol):
    """Another node, by its control address; every call is bounded by ``timeout_s``."""

    async def look_at_reservations(
        self, addr: str, request: ReservationLookRequest, *, timeout_s: float
    ) -> ReservationLook: ...

    async def change_reservations(
        self, addr: str, request: ReservationChangeRequest, *, timeout_s: float
    ) -> ReservationChangeAnswer: ...


class ServedHere(Exception):
    """This node has become the primary meanwhile."""


@dataclass(slots=True, kw_only=True)
class Pinned:
    """The command of one upcall; :meth:`release` after it was answered."""

    dataplane: DataPlane
    session_key: int
    tag: int
    taken: bool = False

    async def take(self) -> None:
        """Raises: Withdrawn."""
        if not self.taken and not await self.dataplane.pin_command(self.session_key, self.tag):
            raise Withdrawn("The command was taken back before it was sent.")
        self.taken = True

    async def release(self) -> None:
        while self.taken:
            try:
                await self.dataplane.unpin_command(self.session_key)
            except Unavailable:
                # The core has more mail than it can take: its session waits for this.
                await asyncio.sleep(PAUSE_S)
            else:
                self.taken = False


class Forwarding:
    """Asks the primary's node.

    Args:
        within_s, patience_s: as the constants say; tests are in a hurry.
    """

    def __init__(
        self,
        calls: ReservationCalls,
        *,
        within_s: float = LOGGED_WITHIN_S + MARGIN_S,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._calls = calls
        self._within_s = within_s
        self._patience_s = patience_s

    @staticmethod
    def wanted(volume: Volume) -> bool:
        """Is another replica known to be the primary? Then its node is asked."""
        return volume.primacy is None and _primary_of(volume) is not None

    async def table(self, volume: Volume) -> ReservationTable:
        """The newest table. Raises: ServedHere, Unavailable."""
        _, look, _ = await self._look(volume, self._until())
        return _table_of(look)

    async def change(
        self, volume: Volume, asker: Asker, cdb: bytes, data: bytes, command: Pinned
    ) -> ScsiAnswer:
        """Have one PERSISTENT RESERVE OUT carried out; the caller answers it and then releases it.

        Raises: ServedHere, Unavailable, Withdrawn (nothing was done), OutcomeUnknown.
        """
        until = self._until()
        pause = PAUSE_S
        while True:
            address, look, known_at = await self._look(volume, until)
            await command.take()
            request = ReservationChangeRequest(
                volume_id=volume.volume_id,
                ticket_ns=look.ticket_ns,
                registrant=asker.nexus.record(port=asker.port),
                cdb=cdb,
                data=data,
            )
            answer = await self._send(address, request, known_at)
            match answer.outcome:
                case ReservationOutcome.ANSWERED if answer.status in STATUSES:
                    return ScsiAnswer(status=Status(answer.status), sense=answer.sense)
                case ReservationOutcome.ANSWERED:
                    raise OutcomeUnknown(f"The primary answered with status {answer.status:#x}.")
                case ReservationOutcome.UNKNOWN:
                    raise OutcomeUnknown("The change is logged and has not committed in time.")
                case ReservationOutcome.NOT_NOW:
                    return ScsiAnswer(status=Status.BUSY)
            # Nothing was done there, and there may be a newer primary.
            pause = await self._again(until, pause, "The primary does not serve.")

    def _until(self) -> float:
        return asyncio.get_running_loop().time() + self._patience_s

    async def _look(self, volume: Volume, until: float) -> tuple[str, ReservationLook, float]:
        """Who was asked, the newest table with its ticket, and when it came; tried while a failover may be under way.

        Raises: ServedHere, Unavailable.
        """
        loop = asyncio.get_running_loop()
        pause = PAUSE_S
        while True:
            request = ReservationLookRequest(volume_id=volume.volume_id)
            address = _address_of(volume)
            try:
                look = await self._calls.look_at_reservations(
                    address,
                    request,
                    timeout_s=max(LAST_S, min(LOOK_TIMEOUT_S, until - loop.time())),
                )
            except (StaleEpoch, NotFound, Unavailable, TimedOut, Unproven) as error:
                pause = await self._again(until, pause, str(error))
            else:
                return address, look, loop.time()

    async def _again(self, until: float, pause: float, cause: str) -> float:
        """Wait before the next try; how long to wait before the one after it. Raises: Unavailable: no more of them."""
        loop = asyncio.get_running_loop()
        # Time is left for the try itself, which is given up at that moment too.
        await asyncio.sleep(min(pause, max(0.0, until - loop.time()) / 2))
        if loop.time() > until - LAST_S:
            raise Unavailable(f"The primary was not reached: {cause}")
        return min(2 * pause, PAUSE_MAX_S)

    async def _send(
        self, address: str, request: ReservationChangeRequest, known_at: float
    ) -> ReservationChangeAnswer:
        """``address``: who gave the ticket; ``known_at``: when. Raises: OutcomeUnknown, not before it is over."""
        try:
            return await self._calls.change_reservations(
                address, request, timeout_s=CHANGE_TIMEOUT_S
            )
        except (StaleEpoch, NotFound):
            # Said by the node that was asked, before anything was done.
            return ReservationChangeAnswer(outcome=ReservationOutcome.NOT_HERE)
        except SparrowError as error:
            left = known_at + self._within_s - asyncio.get_running_loop().time()
            await asyncio.sleep(max(left, 0.0))
            raise OutcomeUnknown(f"A change was sent and not answered: {error}") from error


def _primary_of(volume: Volume) -> ReplicaId | None:
    """The replica that the newest line names, if that is another one."""
    line = volume.known_line
    if line is None or line.retired or line.primary == volume.replica_id:
        return None
    return line.primary


def _address_of(volume: Volume) -> str:
    """Control address of the primary's node as it is known now. Raises: ServedHere, Unavailable."""
    primary = _primary_of(volume)
    if volume.primacy is not None or primary is None:
        raise ServedHere
    return volume.peer(primary).ctrl_addr


def _table_of(look: ReservationLook) -> ReservationTable:
    """Raises: Unavailable: nobody says so."""
    if not look.table:
        return ReservationTable()
    try:
        return decode_table(look.table, error=RemoteProtocolError)
    except RemoteProtocolError as error:
        raise Unavailable(f"The primary's table is none: {error}") from error


class Door:
    """What other nodes ask this one, which may be the primary."""

    def __init__(
        self,
        replicas: Replicas,
        reservations: Reservations,
        *,
        cluster_id: Callable[[], str],
        clock_ns: Callable[[], int] = boot_clock_ns,
    ) -> None:
        self._replicas = replicas
        self._reservations = reservations
        self._cluster_id = cluster_id
        self._clock_ns = clock_ns

    async def look(self, request: ReservationLookRequest) -> ReservationLook:
        """Raises: RemoteProtocolError, NotFound, StaleEpoch, Unavailable."""
        check_volume_id(request.volume_id)
        self._replicas.get(request.volume_id)
        table = await self._reservations.table(request.volume_id)
        return ReservationLook(table=encode_table(table), ticket_ns=self._clock_ns())

    async def change(self, request: ReservationChangeRequest) -> ReservationChangeAnswer:
        """Raises: RemoteProtocolError, NotFound; nothing was done."""
        asker = _checked(request)
        volume = self._replicas.get(request.volume_id)
        if volume.primacy is None:
            return ReservationChangeAnswer(outcome=ReservationOutcome.NOT_HERE)
        # The gate is looked at where the change is logged.
        unit = unit_of(volume, self._cluster_id(), gate_open=True, primary_lives=True)

        def decide(table: ReservationTable) -> tuple[ScsiAnswer, Change]:
            reserved = Reserved(table=table, asker=asker)
            return change_reservations(request.cdb, request.data, unit, reserved)

        by_ns = request.ticket_ns + int(LOGGED_WITHIN_S * 1e9)
        try:
            answer = await self._reservations.change(volume.volume_id, decide, by_ns=by_ns)
        except StaleEpoch:
            return ReservationChangeAnswer(outcome=ReservationOutcome.NOT_HERE)
        except (Withdrawn, Unavailable):
            return ReservationChangeAnswer(outcome=ReservationOutcome.NOT_NOW)
        except OutcomeUnknown:
            return ReservationChangeAnswer(outcome=ReservationOutcome.UNKNOWN)
        return ReservationChangeAnswer(
            outcome=ReservationOutcome.ANSWERED, status=int(answer.status), sense=answer.sense
        )


def _checked(request: ReservationChangeRequest) -> Asker:
    """Who asks. Raises: RemoteProtocolError naming the first field that is off."""
    check_volume_id(request.volume_id)
    if not 0 < request.ticket_ns < COUNTER_END:
        raise RemoteProtocolError(f"ticket_ns is {request.ticket_ns}, which no clock shows")
    if len(request.cdb) != CDB_BYTES_MAX or not changes_reservations(request.cdb):
        raise RemoteProtocolError("cdb is no PERSISTENT RESERVE OUT")
    if not carried(request.cdb):
        raise RemoteProtocolError("cdb is a command that only the primary's own sessions have")
    if len(request.data) > LIST_BYTES_MAX:
        raise RemoteProtocolError(f"data is longer than {LIST_BYTES_MAX} bytes")
    try:
        found = decode_registrant(request.registrant, error=RemoteProtocolError)
    except RemoteProtocolError as error:
        raise RemoteProtocolError(f"registrant is none: {error}") from error
    whole = len(request.registrant) == RESERVATION_REGISTRANT.size
    if not whole or found.nexus.kind != RESERVATION_KIND_ISCSI or found.key or not found.port:
        raise RemoteProtocolError("registrant is no iSCSI initiator with a port and without a key")
    return Asker(nexus=found.nexus, port=found.port)
