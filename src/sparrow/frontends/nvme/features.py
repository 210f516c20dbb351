"""Features of one controller. Source: NVMe base 2.0, 5.15 (Get Features), 5.27 (Set Features)."""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Record
from sparrow.frontends.nvme.events import AsyncEvents
from sparrow.frontends.nvme.identify import NSID, NSID_ALL
from sparrow.frontends.nvme.status import CommandRefused, Status
from sparrow.frontends.reservations import SERVED

ARBITRATION: Final = 0x01
POWER: Final = 0x02
TEMPERATURE: Final = 0x04
ERROR_RECOVERY: Final = 0x05
QUEUES: Final = 0x07
WRITE_ATOMICITY: Final = 0x0A
ASYNC_EVENTS: Final = 0x0B
KEEP_ALIVE: Final = 0x0F
HOST_ID: Final = 0x81
RESERVATION_MASK: Final = 0x82
RESERVATION_PERSISTENCE: Final = 0x83

_SAVE: Final = 1 << 31
_SELECT: Final = 0x700
_HOST_ID_128: Final = 0x01
#: Features that are a number the host keeps here, with what each begins as and the bits that may be set.
_NUMBERS: Final = {
    ARBITRATION: (0, 0xFFFFFFFF),
    POWER: (0, 0x0),
    TEMPERATURE: (0xFFFF, 0xFFFFFFFF),
    ERROR_RECOVERY: (0, 0xFFFF),
    WRITE_ATOMICITY: (0, 0x1),
}
#: Registration preempted, reservation released, reservation preempted. Source: NVMe base 2.0, 5.27.1.27.
_MASK_BITS: Final = 0x0E


class Features:
    """What the host has set; ``queues`` is how many I/O queues it may have, 0 before it asked."""

    def __init__(
        self, events: AsyncEvents, *, host_id: bytes, kato_ms: int, io_queues_max: int
    ) -> None:
        self._events = events
        self._host_id = host_id
        self._io_queues_max = io_queues_max
        self._reserves = SERVED and io_queues_max > 0
        self._first_kato_ms = kato_ms
        self.kato_ms = kato_ms
        self.queues = 0
        self._numbers = {feature: value for feature, (value, _) in _NUMBERS.items()}
        #: Bits of reservation notifications the host does not want.
        self.reservation_mask = 0

    def reset(self) -> None:
        """As at the beginning."""
        self.kato_ms = self._first_kato_ms
        self.queues = 0
        self._numbers = {feature: value for feature, (value, _) in _NUMBERS.items()}
        self.reservation_mask = 0

    def get(self, entry: Record, *, persistent: bool = False) -> tuple[int, bytes]:
        """Result and data; ``persistent`` is PTPL of the table of reservations. Raises: CommandRefused."""
        feature = entry.number("cdw10") & 0xFF
        if entry.number("cdw10") & _SELECT:
            # Default, saved, supported: not offered (ONCS).
            raise CommandRefused(Status.INVALID_FIELD)
        if feature in self._numbers:
            return self._numbers[feature], b""
        match feature:
            case 0x07 if self._io_queues_max:
                granted = (self.queues or self._io_queues_max) - 1
                return granted | granted << 16, b""
            case 0x0B:
                return self._events.config, b""
            case 0x0F:
                return self.kato_ms, b""
            case 0x81:
                if not entry.number("cdw11") & _HOST_ID_128:
                    raise CommandRefused(Status.INVALID_FIELD)
                return 0, self._host_id
            case 0x82 if self._reserves:
                _check_namespace(entry, all_too=False)
                return self.reservation_mask, b""
            case 0x83 if self._reserves:
                _check_namespace(entry, all_too=False)
                return int(persistent), b""
        raise CommandRefused(Status.INVALID_FIELD)

    def set(self, entry: Record) -> int:
        """Result. Raises: CommandRefused."""
        feature, value = entry.number("cdw10") & 0xFF, entry.number("cdw11")
        if entry.number("cdw10") & _SAVE:
            raise CommandRefused(Status.FEATURE_NOT_SAVEABLE)
        if feature in self._numbers:
            if value & ~_NUMBERS[feature][1]:
                raise CommandRefused(Status.INVALID_FIELD)
            self._numbers[feature] = value
            return 0
        match feature:
            case 0x07 if self._io_queues_max:
                return self._set_queues(value)
            case 0x0B:
                self._events.configure(value)
                return 0
            case 0x0F:
                self.kato_ms = value
                return 0
            case 0x81:
                # Connect has set it. Source: NVMe base 2.0, 5.27.1.25.
                raise CommandRefused(Status.SEQUENCE)
            case 0x82 if self._reserves:
                _check_namespace(entry, all_too=True)
                if value & ~_MASK_BITS:
                    raise CommandRefused(Status.INVALID_FIELD)
                self.reservation_mask = value
                return 0
            case 0x83 if self._reserves:
                # Every reservation persists; what is told of it follows CPTPL of Reservation Register.
                raise CommandRefused(Status.FEATURE_NOT_CHANGEABLE)
        raise CommandRefused(Status.INVALID_FIELD)

    def _set_queues(self, value: int) -> int:
        submission, completion = value & 0xFFFF, value >> 16
        if 0xFFFF in (submission, completion):
            raise CommandRefused(Status.INVALID_FIELD)
        # A queue is both here.
        self.queues = min(submission + 1, completion + 1, self._io_queues_max)
        return (self.queues - 1) | (self.queues - 1) << 16


def _check_namespace(entry: Record, *, all_too: bool) -> None:
    """Reservation features are of a namespace. Raises: CommandRefused."""
    nsid = entry.number("nsid")
    if nsid != NSID and not (all_too and nsid == NSID_ALL):
        raise CommandRefused(Status.INVALID_NAMESPACE)
