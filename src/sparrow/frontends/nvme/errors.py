"""What a host can do wrong: errors that end the connection, and refusals of one command."""

from __future__ import annotations

from enum import IntEnum

from sparrow.base.errors import RemoteProtocolError
from sparrow.formats.nvme_tcp import NVME_C2H_TERM, NVME_TERM, NVME_TERM_HEADER_MAX


class FatalError(IntEnum):
    """Fatal Error Status of a termination PDU. Source: NVMe/TCP 1.0, 3.6.2.5."""

    HEADER = 0x01
    SEQUENCE = 0x02
    HEADER_DIGEST = 0x03
    OUT_OF_RANGE = 0x04
    LIMIT = 0x05
    UNSUPPORTED = 0x06


class NvmeError(RemoteProtocolError, code="nvme.protocol"):
    """The host broke the protocol; send ``reply``, then close the connection. An empty one means a plain close."""

    def __init__(self, message: str, *, reply: bytes = b"") -> None:
        super().__init__(message)
        self.reply = reply


class HostTerminated(NvmeError, code="nvme.host_terminated"):
    """The host sent a termination PDU: it is about to hang up."""


def fatal(status: FatalError, message: str, *, info: int = 0, header: bytes = b"") -> NvmeError:
    """An error with its C2HTermReq.

    Args:
        status: why.
        message: one sentence for the log.
        info: offset of the field that is wrong, or the digest that was.
        header: the offending header, as far as it is here.
    """
    data = header[:NVME_TERM_HEADER_MAX]
    term = NVME_TERM.pack(
        {
            "pdu_type": NVME_C2H_TERM,
            "flags": 0,
            "hlen": NVME_TERM.size,
            "pdo": 0,
            "plen": NVME_TERM.size + len(data),
            "fes": int(status),
            "fei": info,
            "unused": bytes(10),
        }
    )
    return NvmeError(message, reply=term + data)
