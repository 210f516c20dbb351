"""Status of a completion: SCT << 8 | SC, and Do Not Retry. Source: NVMe base 2.0, 3.3.3.2.1."""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from sparrow.formats import nvme

DNR: Final = int(nvme.NVME_SC_DNR)


class Status(IntEnum):
    """The ones an admin queue gives; the core gives those of I/O queues."""

    SUCCESS = int(nvme.NVME_SC_SUCCESS)
    INVALID_OPCODE = int(nvme.NVME_SC_OPCODE)
    INVALID_FIELD = int(nvme.NVME_SC_FIELD)
    ID_CONFLICT = int(nvme.NVME_SC_CONFLICT)
    INTERNAL = int(nvme.NVME_SC_INTERNAL)
    ABORTED = int(nvme.NVME_SC_ABORTED)
    INVALID_NAMESPACE = int(nvme.NVME_SC_NAMESPACE)
    SEQUENCE = int(nvme.NVME_SC_SEQUENCE)
    SGL_LENGTH = int(nvme.NVME_SC_SGL_LENGTH)
    SGL_TYPE = int(nvme.NVME_SC_SGL_TYPE)
    SGL_OFFSET = int(nvme.NVME_SC_SGL_OFFSET)
    HOST_ID_FORMAT = 0x018
    RESERVATION_CONFLICT = 0x083
    TRANSIENT_TRANSPORT = int(nvme.NVME_SC_TRANSIENT)
    ABORT_LIMIT = 0x103
    ASYNC_EVENT_LIMIT = 0x105
    INVALID_LOG_PAGE = 0x109
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E
    # of Connect: NVMe base 2.0, 6.3, figure 385
    CONNECT_FORMAT = 0x180
    CONNECT_BUSY = 0x181
    CONNECT_PARAMETERS = 0x182
    CONNECT_HOST = 0x184
    INVALID_QUEUE_TYPE = 0x185
    DISCOVERY_RESTART = 0x190
    AUTHENTICATION_REQUIRED = 0x191


class CommandRefused(Exception):
    """One command ends with this status; the connection goes on."""

    def __init__(self, status: Status, *, result: int = 0, retry: bool = False) -> None:
        super().__init__(status.name)
        self.status = int(status) | (0 if retry else DNR)
        self.result = result
