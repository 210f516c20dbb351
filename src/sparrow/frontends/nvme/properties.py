"""Controller properties: CAP, VS, CC, CSTS. Source: NVMe base 2.0, 3.1.3, 6.5 and 6.6."""

from __future__ import annotations

from typing import Final

from sparrow.frontends.nvme.connection import QUEUE_ENTRIES_MAX
from sparrow.frontends.nvme.identify import VERSION_2_0
from sparrow.frontends.nvme.status import CommandRefused, Status

CAP: Final = 0x00
VS: Final = 0x08
CC: Final = 0x14
CSTS: Final = 0x1C
_EIGHT_BYTES: Final = frozenset({CAP})
#: Seconds until CSTS.RDY follows CC.EN at most, in half seconds.
_TIMEOUT_HALF_SECONDS: Final = 30
_CONTIGUOUS: Final = 1 << 16
_NVM_COMMAND_SET: Final = 1 << 37
CAP_VALUE: Final = (
    (QUEUE_ENTRIES_MAX - 1) | _CONTIGUOUS | _TIMEOUT_HALF_SECONDS << 24 | _NVM_COMMAND_SET
)

_ENABLE: Final = 0x1
_SHUTDOWN: Final = 0xC000
#: CSS, MPS and AMS: the NVM command set, 4 KiB pages, round robin.
_ONLY_ZERO: Final = 0x7 << 4 | 0xF << 7 | 0x7 << 11
_IO_ENTRY_SIZES: Final = 6 << 16 | 4 << 20
_IO_ENTRY_MASK: Final = 0xFF << 16

READY: Final = 0x1
FATAL: Final = 0x2
SHUTDOWN_COMPLETE: Final = 0x2 << 2


class Properties:
    """CC as the host set it, and what CSTS says of it."""

    def __init__(self, *, io: bool) -> None:
        self._io = io
        self.cc = 0
        self._fatal = False

    @property
    def enabled(self) -> bool:
        return bool(self.cc & _ENABLE) and not self._fatal

    @property
    def shut_down(self) -> bool:
        return bool(self.cc & _SHUTDOWN)

    @property
    def csts(self) -> int:
        return (
            (READY if self.enabled else 0)
            | (FATAL if self._fatal else 0)
            | (SHUTDOWN_COMPLETE if self.shut_down else 0)
        )

    def get(self, offset: int, *, eight_bytes: bool) -> int:
        """Raises: CommandRefused (there is no such property, or not of that size)."""
        values = {CAP: CAP_VALUE, VS: VERSION_2_0, CC: self.cc, CSTS: self.csts}
        if offset not in values or eight_bytes != (offset in _EIGHT_BYTES):
            raise CommandRefused(Status.INVALID_FIELD)
        return values[offset]

    def set(self, offset: int, value: int, *, eight_bytes: bool) -> bool:
        """Take a new CC. True when it resets the controller. Raises: CommandRefused."""
        if offset != CC or eight_bytes:
            raise CommandRefused(Status.INVALID_FIELD)
        was, self.cc = self.cc & _ENABLE, value & 0xFFFFFFFF
        if not was and self.cc & _ENABLE:
            sizes = self.cc & _IO_ENTRY_MASK
            # Entry sizes are of I/O queues, which a discovery controller has none of.
            self._fatal = bool(self.cc & _ONLY_ZERO) or (self._io and sizes != _IO_ENTRY_SIZES)
        elif was and not self.cc & _ENABLE:
            self._fatal = False
            return True
        return False
