"""The admin queue of one controller after its Connect.

A controller is fed whole commands and the time, and answers with completions; it never waits. ``picture`` of a call is
what the controller shows at that moment. Two kinds: of a volume, and of discovery.

Source: NVMe base 2.0, 5 (admin commands), 6 (fabrics commands), 3.9 (keep alive).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from sparrow.formats import nvme as entries
from sparrow.formats.nvme_admin import NVME_IDENTIFY_BYTES
from sparrow.formats.reservations import ReservationNexus
from sparrow.frontends.nvme import identify, logs
from sparrow.frontends.nvme.connect import ConnectRequest
from sparrow.frontends.nvme.connection import Command
from sparrow.frontends.nvme.events import AsyncEvent, AsyncEvents
from sparrow.frontends.nvme.features import Features
from sparrow.frontends.nvme.identify import NSID, NSID_ALL, TRANSFER_BYTES_MAX
from sparrow.frontends.nvme.naming import DISCOVERY_NQN
from sparrow.frontends.nvme.properties import Properties
from sparrow.frontends.nvme.reservations import nexus_of
from sparrow.frontends.nvme.status import CommandRefused, Status
from sparrow.frontends.nvme.subsystem import Counters, Subsystem
from sparrow.frontends.reservations import SERVED
from sparrow.frontends.reservations.machine import Notice

GET_LOG_PAGE: Final = 0x02
IDENTIFY: Final = 0x06
ABORT: Final = 0x08
SET_FEATURES: Final = 0x09
GET_FEATURES: Final = 0x0A
ASYNC_EVENT_REQUEST: Final = 0x0C
KEEP_ALIVE: Final = 0x18

#: I/O queues of one controller; each is a connection with buffers of its own in the core.
IO_QUEUES_MAX: Final = 8
#: A discovery controller whose host asked for no keep alive timer and says nothing for so long is gone.
DISCOVERY_IDLE_MS: Final = 120_000
#: Reservation notifications kept for a host that does not read them; the oldest go first.
NOTICES_MAX: Final = 64
#: As log page 80h and the bits of the mask have them.
NOTICE_TYPES: Final = {
    Notice.REGISTRATIONS_PREEMPTED: 1,
    Notice.RESERVATIONS_RELEASED: 2,
    Notice.RESERVATIONS_PREEMPTED: 3,
}
assert set(NOTICE_TYPES) == set(Notice)
_RETAIN_EVENT: Final = 0x8000
_NOT_ABORTED: Final = 1
_NVM_COMMAND_SET: Final = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """One command is answered."""

    cid: int
    status: int = 0
    result: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeView:
    """What a volume's controller shows: the subsystem, its counters, how often its ANA log changed.

    ``aborted``: the command on an I/O queue that an Abort names was taken back.
    """

    subsystem: Subsystem
    counters: Counters = Counters()
    ana_changes: int = 0
    aborted: bool = False
    #: PTPL of the table of reservations.
    persistent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DiscoveryView:
    """What a discovery controller shows, and how often that changed."""

    entries: tuple[logs.DiscoveryEntry, ...]
    generation: int


def aborts(command: Command) -> tuple[int, int]:
    """What an Abort names: queue and command identifier."""
    word = command.entry.number("cdw10")
    return word & 0xFFFF, word >> 16


View = TypeVar("View")


class Controller(ABC, Generic[View]):
    """What both kinds have in common.

    Attributes:
        cntlid: of this controller.
        connect: the Connect it was made by.
        resets: how often the host has reset it; its I/O queues end with each.
    """

    def __init__(
        self, *, cntlid: int, connect: ConnectRequest, supported: int, io: bool, now: float
    ) -> None:
        self.cntlid = cntlid
        self.connect = connect
        self.resets = 0
        self.properties = Properties(io=io)
        self.events = AsyncEvents(supported)
        self.features = Features(
            self.events,
            host_id=connect.host_id,
            kato_ms=connect.kato_ms,
            io_queues_max=IO_QUEUES_MAX if io else 0,
        )
        self._heard = now

    # ------------------------------------------------------------ time

    def expires(self) -> float | None:
        """When the host is given up unless it says something, or None. Seconds, as the time that is passed in."""
        kato = self.features.kato_ms
        return None if kato == 0 else self._heard + kato / 1000

    # ------------------------------------------------------------ commands

    def execute(self, command: Command, picture: View, now: float) -> tuple[Completion, ...]:
        """Carry out one command: its completion, unless it is one that waits, and those it brought about."""
        self._heard = now
        try:
            done = self._execute(command, picture)
        except CommandRefused as refusal:
            done = (Completion(command.cid, refusal.status, refusal.result),)
        return done + self.due()

    def happened(self, event: AsyncEvent) -> tuple[Completion, ...]:
        """Tell the host of a change, now or with its next request."""
        self.events.happened(event)
        return self.due()

    def due(self) -> tuple[Completion, ...]:
        """Event requests that can be answered."""
        return tuple(Completion(cid, result=result) for cid, result in self.events.due())

    def _execute(self, command: Command, picture: View) -> tuple[Completion, ...]:
        if command.is_fabrics:
            return self._fabrics(command)
        if not self.properties.enabled:
            raise CommandRefused(Status.SEQUENCE)
        cid = command.cid
        match command.opcode:
            case 0x0C:  # ASYNC_EVENT_REQUEST
                self.events.request(cid)
                return ()
            case 0x18:  # KEEP_ALIVE
                return (Completion(cid),)
            case 0x08:  # ABORT
                return self._abort(command, picture)
            case 0x06:  # IDENTIFY
                return (
                    self._sized(command, self._identify(command, picture), NVME_IDENTIFY_BYTES),
                )
            case 0x02:  # GET_LOG_PAGE
                return (self._log_page(command, picture),)
            case 0x0A:  # GET_FEATURES
                result, data = self.features.get(
                    command.entry, persistent=self._persistent(picture)
                )
                return (self._sized(command, data, len(data), result=result),)
            case 0x09:  # SET_FEATURES
                return (Completion(cid, result=self.features.set(command.entry)),)
        raise CommandRefused(Status.INVALID_OPCODE)

    def _fabrics(self, command: Command) -> tuple[Completion, ...]:
        entry = entries.NVME_PROPERTY.unpack(command.sqe)
        eight = entry.number("attrib") & 7 == 1
        match command.fctype:
            case 0x00:
                if self.properties.set(
                    entry.number("property_offset"), entry.number("value"), eight_bytes=eight
                ):
                    self.resets += 1
                    self.events.reset()
                    self.features.reset()
                return (Completion(command.cid),)
            case 0x04:
                value = self.properties.get(entry.number("property_offset"), eight_bytes=eight)
                return (Completion(command.cid, result=value),)
            case 0x01:
                raise CommandRefused(Status.SEQUENCE)
            case 0x08:
                raise CommandRefused(Status.INVALID_QUEUE_TYPE)
        raise CommandRefused(Status.INVALID_OPCODE)

    def _abort(self, command: Command, picture: View) -> tuple[Completion, ...]:
        """Take back an event request, or say whether the core took back a command of an I/O queue.

        One that was not taken back ends by itself, which the standard allows (NVMe base 2.0, 5.1).
        """
        queue, cid = aborts(command)
        if queue == 0 and self.events.withdraw(cid):
            return (Completion(cid, int(Status.ABORTED)), Completion(command.cid))
        aborted = queue != 0 and self._aborted(picture)
        return (Completion(command.cid, result=0 if aborted else _NOT_ABORTED),)

    def _log_page(self, command: Command, picture: View) -> Completion:
        cdw10, cdw11 = command.entry.number("cdw10"), command.entry.number("cdw11")
        page, length = cdw10 & 0xFF, 4 * ((cdw10 >> 16 | (cdw11 & 0xFFFF) << 16) + 1)
        offset = command.entry.number("cdw12") | command.entry.number("cdw13") << 32
        if offset % 4 or length > TRANSFER_BYTES_MAX:
            raise CommandRefused(Status.INVALID_FIELD)
        whole = self._log(page, cdw10 >> 8 & 0x7F, picture)
        if offset > len(whole):
            raise CommandRefused(Status.INVALID_FIELD)
        done = self._sized(command, whole[offset : offset + length].ljust(length, b"\0"), length)
        if not cdw10 & _RETAIN_EVENT:
            self.events.log_read(page)
            self._log_was_read(page)
        return done

    def _sized(self, command: Command, data: bytes, length: int, *, result: int = 0) -> Completion:
        """A completion with data the host has room for."""
        if length > command.sgl_length:
            raise CommandRefused(Status.SGL_LENGTH)
        if length and command.entry.number("sgl_type") != entries.NVME_SGL_TRANSPORT:
            raise CommandRefused(Status.SGL_TYPE)
        return Completion(command.cid, result=result, data=data)

    # ------------------------------------------------------------ by kind

    @abstractmethod
    def _identify(self, command: Command, picture: View) -> bytes:
        """4,096 bytes. Raises: CommandRefused."""

    @abstractmethod
    def _log(self, page: int, specific: int, picture: View) -> bytes:
        """A whole log page. Raises: CommandRefused."""

    def _log_was_read(self, page: int) -> None:
        """Without RAE: what the page told is known now."""

    def _aborted(self, picture: View) -> bool:
        """Was the command that an Abort names taken back?"""
        del picture  # a controller without I/O queues
        return False

    def _persistent(self, _picture: View) -> bool:
        """Do reservations say that they persist?"""
        return False


class VolumeController(Controller[VolumeView]):
    """An I/O controller: one namespace, up to ``IO_QUEUES_MAX`` I/O queues."""

    def __init__(self, *, cntlid: int, connect: ConnectRequest, now: float) -> None:
        supported = identify.NOTICE_NAMESPACE | identify.NOTICE_ANA
        super().__init__(cntlid=cntlid, connect=connect, supported=supported, io=True, now=now)
        self._namespace_changed = False
        self._notices: deque[Notice] = deque(maxlen=NOTICES_MAX)
        self._notices_count = 0

    @property
    def host(self) -> ReservationNexus:
        """Whom reservations know this host as."""
        return nexus_of(self.connect.host_nqn, self.connect.host_id)

    def notified(self, notice: Notice) -> bool:
        """A reservation changed in a way this host is to hear of; True: an event is to follow."""
        if self.features.reservation_mask >> NOTICE_TYPES[notice] & 1:
            return False
        self._notices_count += 1
        self._notices.append(notice)
        return True

    def _persistent(self, picture: VolumeView) -> bool:
        return picture.persistent

    def happened(self, event: AsyncEvent) -> tuple[Completion, ...]:
        if event is AsyncEvent.NAMESPACE_CHANGED:
            self._namespace_changed = True
        return super().happened(event)

    def check_queue(self, connect: ConnectRequest) -> None:
        """May this host have this I/O queue? Raises: CommandRefused."""
        mine = self.connect
        if (connect.host_nqn, connect.host_id) != (mine.host_nqn, mine.host_id):
            raise CommandRefused(Status.CONNECT_HOST)
        if not self.properties.enabled or self.properties.shut_down:
            raise CommandRefused(Status.SEQUENCE)

    def _aborted(self, picture: VolumeView) -> bool:
        return picture.aborted

    def _identify(self, command: Command, picture: VolumeView) -> bytes:
        cns, nsid = command.entry.number("cdw10") & 0xFF, command.entry.number("nsid")
        command_set = command.entry.number("cdw11") >> 24
        subsystem = picture.subsystem
        of_namespace: dict[int, Callable[[Subsystem], bytes]] = {
            0x00: identify.identify_namespace,
            0x03: identify.namespace_descriptors,
            0x08: identify.identify_namespace_independent,
        }
        if cns in of_namespace:
            if nsid != NSID:
                raise CommandRefused(Status.INVALID_NAMESPACE)
            return of_namespace[cns](subsystem)
        if cns in (0x05, 0x06, 0x07) and command_set != _NVM_COMMAND_SET:
            raise CommandRefused(Status.INVALID_FIELD)
        match cns:
            case 0x01:
                return identify.identify_controller(subsystem, cntlid=self.cntlid)
            case 0x02 | 0x07:
                if nsid >= NSID_ALL - 1:
                    raise CommandRefused(Status.INVALID_NAMESPACE)
                return identify.active_namespaces(nsid)
            case 0x05:
                if nsid != NSID:
                    raise CommandRefused(Status.INVALID_NAMESPACE)
                # No protection information: all zero.
                return bytes(NVME_IDENTIFY_BYTES)
            case 0x06:
                return identify.identify_controller_nvm()
            case 0x1C:
                return identify.command_sets()
        raise CommandRefused(Status.INVALID_FIELD)

    def _log(self, page: int, specific: int, picture: VolumeView) -> bytes:
        match page:
            case logs.LOG_ERROR:
                return logs.error_log()
            case logs.LOG_SMART:
                return logs.smart_log(picture.subsystem, picture.counters)
            case logs.LOG_FIRMWARE:
                return logs.firmware_log()
            case logs.LOG_CHANGED_NAMESPACES:
                return logs.changed_namespaces_log(changed=self._namespace_changed)
            case logs.LOG_EFFECTS:
                return logs.effects_log(discovery=False)
            case logs.LOG_ANA:
                return logs.ana_log(
                    picture.subsystem, changes=picture.ana_changes, groups_only=bool(specific & 1)
                )
            case logs.LOG_RESERVATION if SERVED:
                behind = max(0, len(self._notices) - 1)
                return logs.reservation_log(
                    NOTICE_TYPES[self._notices[0]] if self._notices else 0,
                    count=self._notices_count - behind,
                    waiting=behind,
                )
        raise CommandRefused(Status.INVALID_LOG_PAGE)

    def _log_was_read(self, page: int) -> None:
        if page == logs.LOG_CHANGED_NAMESPACES:
            self._namespace_changed = False
        elif page == logs.LOG_RESERVATION and self._notices:
            self._notices.popleft()
            if self._notices:
                # One event for each that waits.
                self.events.happened(AsyncEvent.RESERVATION_NOTICE)


class DiscoveryController(Controller[DiscoveryView]):
    """Says where subsystems are; no I/O queues, no namespaces."""

    def __init__(self, *, cntlid: int, connect: ConnectRequest, now: float) -> None:
        super().__init__(
            cntlid=cntlid, connect=connect, supported=identify.NOTICE_DISCOVERY, io=False, now=now
        )

    def expires(self) -> float | None:
        """Also without a keep alive timer: nobody keeps a discovery controller by saying nothing."""
        return super().expires() or self._heard + DISCOVERY_IDLE_MS / 1000

    def _identify(self, command: Command, picture: DiscoveryView) -> bytes:
        if command.entry.number("cdw10") & 0xFF != 0x01:
            raise CommandRefused(Status.INVALID_FIELD)
        return identify.identify_discovery_controller(
            subsystem_nqn=DISCOVERY_NQN, cntlid=self.cntlid
        )

    def _log(self, page: int, specific: int, picture: DiscoveryView) -> bytes:
        match page:
            case logs.LOG_ERROR:
                return logs.error_log()
            case logs.LOG_EFFECTS:
                return logs.effects_log(discovery=True)
            case logs.LOG_DISCOVERY:
                return logs.discovery_log(picture.entries, generation=picture.generation)
        raise CommandRefused(Status.INVALID_LOG_PAGE)
