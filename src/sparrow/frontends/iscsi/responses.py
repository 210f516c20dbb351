"""What the target sends during the conversation, as values: Login, Text, Logout, NOP-In, Reject.

``decode`` exists for the peers that tests play; it asserts instead of refusing, because only a bug of ours can
make these bytes wrong.

Source: RFC 7143, 11.11 (Text), 11.13 (Login), 11.15 (Logout), 11.17 (Reject), 11.19 (NOP-In).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Final

from sparrow.frontends.iscsi.errors import LoginStatus
from sparrow.frontends.iscsi.pdu import CONTINUE, FINAL, RESERVED_TAG, TRANSIT, Opcode, Pdu, frame
from sparrow.frontends.iscsi.requests import Stage

#: The only version of the protocol there is. Source: RFC 7143, 11.12.4.
VERSION: Final = 0x00


class RejectReason(IntEnum):
    """Source: RFC 7143, 11.17.1."""

    PROTOCOL_ERROR = 0x04
    COMMAND_NOT_SUPPORTED = 0x05
    INVALID_PDU_FIELD = 0x09


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginResponse:
    """Source: RFC 7143, 11.13."""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BBBB4x6sHI4xIIIBB10x")

    transit: bool = False
    continued: bool = False
    current_stage: Stage = Stage.SECURITY
    next_stage: Stage | None = None
    isid: bytes
    tsih: int = 0
    task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    status: LoginStatus = LoginStatus.SUCCESS
    text: bytes = b""

    def encode(self) -> bytes:
        """The PDU on the wire."""
        assert not (self.transit and self.continued)
        assert self.transit == (self.next_stage is not None)
        flags = self.current_stage << 2 | (self.next_stage or 0)
        flags |= (TRANSIT if self.transit else 0) | (CONTINUE if self.continued else 0)
        return frame(
            self._LAYOUT.pack(
                Opcode.LOGIN_RESPONSE,
                flags,
                VERSION,
                VERSION,
                self.isid,
                self.tsih,
                self.task_tag,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
                *self.status.value,
            ),
            self.text,
        )

    @classmethod
    def decode(cls, pdu: Pdu) -> LoginResponse:
        """Read one Login Response of ours."""
        (
            opcode,
            flags,
            highest,
            active,
            isid,
            tsih,
            tag,
            stat_sn,
            exp_cmd_sn,
            max_cmd_sn,
            *status,
        ) = cls._LAYOUT.unpack(pdu.bhs)
        assert opcode == Opcode.LOGIN_RESPONSE
        assert (highest, active) == (VERSION, VERSION)
        transit = bool(flags & TRANSIT)
        return cls(
            transit=transit,
            continued=bool(flags & CONTINUE),
            current_stage=Stage(flags >> 2 & 3),
            next_stage=Stage(flags & 3) if transit else None,
            isid=isid,
            tsih=tsih,
            task_tag=tag,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            status=LoginStatus(tuple(status)),
            text=pdu.data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextResponse:
    """Source: RFC 7143, 11.11."""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BB6xQIIIII12x")

    final: bool
    continued: bool = False
    lun: int = 0
    task_tag: int
    transfer_tag: int = RESERVED_TAG
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    text: bytes = b""

    def encode(self) -> bytes:
        """The PDU on the wire."""
        assert self.final == (self.transfer_tag == RESERVED_TAG)
        assert not (self.final and self.continued)
        return frame(
            self._LAYOUT.pack(
                Opcode.TEXT_RESPONSE,
                (FINAL if self.final else 0) | (CONTINUE if self.continued else 0),
                self.lun,
                self.task_tag,
                self.transfer_tag,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
            ),
            self.text,
        )

    @classmethod
    def decode(cls, pdu: Pdu) -> TextResponse:
        """Read one Text Response of ours."""
        opcode, flags, lun, tag, transfer_tag, stat_sn, exp_cmd_sn, max_cmd_sn = cls._LAYOUT.unpack(
            pdu.bhs
        )
        assert opcode == Opcode.TEXT_RESPONSE
        return cls(
            final=bool(flags & FINAL),
            continued=bool(flags & CONTINUE),
            lun=lun,
            task_tag=tag,
            transfer_tag=transfer_tag,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            text=pdu.data,
        )


class LogoutOutcome(IntEnum):
    """Source: RFC 7143, 11.15.1."""

    CLOSED = 0
    CID_NOT_FOUND = 1
    RECOVERY_UNSUPPORTED = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutResponse:
    """Source: RFC 7143, 11.15."""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BBB13xI4xIII4xHH4x")

    outcome: LogoutOutcome
    task_tag: int
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    time_to_wait_s: int = 0
    time_to_retain_s: int = 0

    def encode(self) -> bytes:
        """The PDU on the wire."""
        return frame(
            self._LAYOUT.pack(
                Opcode.LOGOUT_RESPONSE,
                FINAL,
                self.outcome,
                self.task_tag,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
                self.time_to_wait_s,
                self.time_to_retain_s,
            )
        )

    @classmethod
    def decode(cls, pdu: Pdu) -> LogoutResponse:
        """Read one Logout Response of ours."""
        opcode, _flags, outcome, tag, stat_sn, exp_cmd_sn, max_cmd_sn, wait, retain = (
            cls._LAYOUT.unpack(pdu.bhs)
        )
        assert opcode == Opcode.LOGOUT_RESPONSE
        return cls(
            outcome=LogoutOutcome(outcome),
            task_tag=tag,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            time_to_wait_s=wait,
            time_to_retain_s=retain,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NopIn:
    """Source: RFC 7143, 11.19."""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BB6xQIIIII12x")

    lun: int = 0
    task_tag: int
    transfer_tag: int = RESERVED_TAG
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    ping: bytes = b""

    def encode(self) -> bytes:
        """The PDU on the wire."""
        return frame(
            self._LAYOUT.pack(
                Opcode.NOP_IN,
                FINAL,
                self.lun,
                self.task_tag,
                self.transfer_tag,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
            ),
            self.ping,
        )

    @classmethod
    def decode(cls, pdu: Pdu) -> NopIn:
        """Read one NOP-In of ours."""
        opcode, _flags, lun, tag, transfer_tag, stat_sn, exp_cmd_sn, max_cmd_sn = (
            cls._LAYOUT.unpack(pdu.bhs)
        )
        assert opcode == Opcode.NOP_IN
        return cls(
            lun=lun,
            task_tag=tag,
            transfer_tag=transfer_tag,
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            ping=pdu.data,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """Says which header was not acceptable; ``header`` is the 48 bytes of it. Source: RFC 7143, 11.17."""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BBB13xI4xIII12x")

    reason: RejectReason
    stat_sn: int
    exp_cmd_sn: int
    max_cmd_sn: int
    header: bytes

    def encode(self) -> bytes:
        """The PDU on the wire."""
        return frame(
            self._LAYOUT.pack(
                Opcode.REJECT,
                FINAL,
                self.reason,
                RESERVED_TAG,
                self.stat_sn,
                self.exp_cmd_sn,
                self.max_cmd_sn,
            ),
            self.header,
        )

    @classmethod
    def decode(cls, pdu: Pdu) -> Reject:
        """Read one Reject of ours."""
        opcode, _flags, reason, tag, stat_sn, exp_cmd_sn, max_cmd_sn = cls._LAYOUT.unpack(pdu.bhs)
        assert opcode == Opcode.REJECT
        assert tag == RESERVED_TAG
        return cls(
            reason=RejectReason(reason),
            stat_sn=stat_sn,
            exp_cmd_sn=exp_cmd_sn,
            max_cmd_sn=max_cmd_sn,
            header=pdu.data,
        )
