"""PDUs of a controller, taken apart: what comes from the core and from the machines in Python alike."""

from __future__ import annotations

import struct
from dataclasses import dataclass

C2H_TERM, CAPSULE_RESP = 3, 5


@dataclass(frozen=True, slots=True)
class Pdu:
    """One PDU of the controller."""

    head: bytes
    data: bytes

    @property
    def kind(self) -> int:
        return self.head[0]

    @property
    def flags(self) -> int:
        return self.head[1]

    @property
    def status(self) -> int:
        """SCT << 8 | SC, and DNR, of a response."""
        assert self.kind == CAPSULE_RESP
        return int.from_bytes(self.head[22:24], "little") >> 1

    @property
    def cid(self) -> int:
        at = 20 if self.kind == CAPSULE_RESP else 8
        return int.from_bytes(self.head[at : at + 2], "little")

    @property
    def result(self) -> int:
        return int.from_bytes(self.head[8:16], "little")

    @property
    def sqhd(self) -> int:
        return int.from_bytes(self.head[16:18], "little")

    @property
    def ttag(self) -> int:
        return int.from_bytes(self.head[10:12], "little")

    @property
    def wanted(self) -> tuple[int, int, int, int]:
        """Identifier, tag, offset and length of an R2T."""
        cid, ttag, offset, length = struct.unpack_from("<HHII", self.head, 8)
        return cid, ttag, offset, length

    @property
    def fault(self) -> tuple[int, int]:
        """FES and FEI of a termination PDU."""
        assert self.kind == C2H_TERM
        fes, fei = struct.unpack_from("<HI", self.head, 8)
        return fes, fei
