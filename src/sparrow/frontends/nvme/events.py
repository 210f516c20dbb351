"""Asynchronous events: what is enabled, what waits for a request, what is masked until its log page is read.

Source: NVMe base 2.0, 5.2 (Asynchronous Event Request), 5.27.1.8 (configuration).
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from sparrow.frontends.nvme.identify import (
    ASYNC_EVENTS_MAX,
    NOTICE_ANA,
    NOTICE_DISCOVERY,
    NOTICE_NAMESPACE,
)
from sparrow.frontends.nvme.logs import (
    LOG_ANA,
    LOG_CHANGED_NAMESPACES,
    LOG_DISCOVERY,
    LOG_RESERVATION,
)
from sparrow.frontends.nvme.status import CommandRefused, Status

_NOTICE: Final = 2
_IO_COMMAND_SET: Final = 6
#: SMART warnings can be switched on; none of them ever comes by itself.
_SMART_BITS: Final = 0xFF


class AsyncEvent(Enum):
    """(bit of the configuration, information, log page, type) of an event; without a bit it is always on."""

    NAMESPACE_CHANGED = (NOTICE_NAMESPACE, 0x00, LOG_CHANGED_NAMESPACES, _NOTICE)
    ANA_CHANGED = (NOTICE_ANA, 0x03, LOG_ANA, _NOTICE)
    DISCOVERY_CHANGED = (NOTICE_DISCOVERY, 0xF0, LOG_DISCOVERY, _NOTICE)
    #: What the host does not want to hear of is masked by a feature. Source: NVMe base 2.0, 5.27.1.27.
    RESERVATION_NOTICE = (0, 0x00, LOG_RESERVATION, _IO_COMMAND_SET)

    @property
    def bit(self) -> int:
        return self.value[0]

    @property
    def log_page(self) -> int:
        return self.value[2]

    @property
    def result(self) -> int:
        """Dword 0 of the completion."""
        return self.value[3] | self.value[1] << 8 | self.value[2] << 16


class AsyncEvents:
    """The events of one controller; ``supported`` is its OAES."""

    def __init__(self, supported: int) -> None:
        self._supported = supported
        self.config = 0
        self._requests: list[int] = []
        self._pending: list[AsyncEvent] = []
        self._masked: set[AsyncEvent] = set()

    def configure(self, value: int) -> None:
        """Raises: CommandRefused (an event that does not exist here)."""
        if value & ~(self._supported | _SMART_BITS):
            raise CommandRefused(Status.INVALID_FIELD)
        self.config = value

    def request(self, cid: int) -> None:
        """A request to keep. Raises: CommandRefused (too many)."""
        if len(self._requests) >= ASYNC_EVENTS_MAX:
            raise CommandRefused(Status.ASYNC_EVENT_LIMIT)
        self._requests.append(cid)

    def withdraw(self, cid: int) -> bool:
        """Forget a request that is aborted; False when there is none."""
        if cid not in self._requests:
            return False
        self._requests.remove(cid)
        return True

    def happened(self, event: AsyncEvent) -> None:
        enabled = not event.bit or self.config & event.bit
        if enabled and event not in self._pending and event not in self._masked:
            self._pending.append(event)

    def log_read(self, log_page: int) -> None:
        """Its event may be told again."""
        self._masked = {event for event in self._masked if event.log_page != log_page}

    def due(self) -> list[tuple[int, int]]:
        """Requests to complete now: (command identifier, result)."""
        out = []
        while self._requests and self._pending:
            event = self._pending.pop(0)
            self._masked.add(event)
            out.append((self._requests.pop(0), event.result))
        return out

    def reset(self) -> None:
        """The controller was reset: nothing is enabled, and requests are gone without an answer."""
        self.config = 0
        self._requests.clear()
        self._pending.clear()
        self._masked.clear()
