"""What an initiator sends during the conversation, as values: Login, Text, Logout, NOP-Out.

``decode`` checks everything the standard says about the PDU on its own; what depends on the state of the session
is the machines' business. ``encode`` exists for the peers that tests play.

Source: RFC 7143, 11.10 (Text), 11.12 (Login), 11.14 (Logout), 11.18 (NOP-Out).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from sparrow.frontends.iscsi.errors import MalformedPdu
from sparrow.frontends.iscsi.pdu import (
    CONTINUE,
    FINAL,
    IMMEDIATE,
    RESERVED_TAG,
    TRANSIT,
    Opcode,
    Pdu,
    frame,
)


class Stage(IntEnum):
    """Stages of a login, as CSG and NSG carry them. Source: RFC 7143, 11.12.3."""

    SECURITY = 0
    OPERATIONAL = 1
    FULL_FEATURE = 3


class LogoutReason(IntEnum):
    """Source: RFC 7143, 11.14.1."""

    CLOSE_SESSION = 0
    CLOSE_CONNECTION = 1
    REMOVE_FOR_RECOVERY = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginRequest:
    """Source: RFC 7143, 11.12."""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BBBB4x6sHIH2xII16x")

    transit: bool
    continued: bool
    current_stage: Stage
    next_stage: Stage | None
    version_max: int = 0
    version_min: int = 0
    isid: bytes
    tsih: int = 0
    task_tag: int
    cid: int
    cmd_sn: int
    exp_stat_sn: int
    text: bytes = b""

    @classmethod
    def decode(cls, pdu: Pdu) -> LoginRequest:
        """Read one Login Request.

        Raises:
            MalformedPdu: not a Login Request, or its flags contradict each other.
        """
        (opcode, flags, version_max, version_min, isid, tsih, tag, cid, cmd_sn, exp_stat_sn) = (
            cls._LAYOUT.unpack(pdu.bhs)
        )
        _require(opcode & 0x3F == Opcode.LOGIN_REQUEST, "not a Login Request")
        _require(pdu.immediate, "a Login Request is always immediate")
        _require(tag != RESERVED_TAG, "the initiator task tag is the reserved one")
        transit, continued = bool(flags & TRANSIT), bool(flags & CONTINUE)
        _require(not (transit and continued), "T and C are both set")
        current = (flags >> 2) & 3
        _require(
            current in (Stage.SECURITY, Stage.OPERATIONAL), f"no login stage has number {current}"
        )
        # Without T the next stage is reserved, and reserved bits are not looked at.
        following = flags & 3 if transit else None
        if following is not None:
            _require(
                following != 2 and following > current,
                f"no way from login stage {current} to {following}",
            )
        return cls(
            transit=transit,
            continued=continued,
            current_stage=Stage(current),
            next_stage=None if following is None else Stage(following),
            version_max=version_max,
            version_min=version_min,
            isid=isid,
            tsih=tsih,
            task_tag=tag,
            cid=cid,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            text=pdu.data,
        )

    def encode(self) -> bytes:
        """The PDU on the wire."""
        flags = self.current_stage << 2 | (self.next_stage or 0)
        flags |= (TRANSIT if self.transit else 0) | (CONTINUE if self.continued else 0)
        return frame(
            self._LAYOUT.pack(
                Opcode.LOGIN_REQUEST | IMMEDIATE,
                flags,
                self.version_max,
                self.version_min,
                self.isid,
                self.tsih,
                self.task_tag,
                self.cid,
                self.cmd_sn,
                self.exp_stat_sn,
            ),
            self.text,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextRequest:
    """Source: RFC 7143, 11.10."""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BB6xQIIII16x")

    immediate: bool = False
    final: bool
    continued: bool = False
    lun: int = 0
    task_tag: int
    transfer_tag: int = RESERVED_TAG
    cmd_sn: int
    exp_stat_sn: int
    text: bytes = b""

    @classmethod
    def decode(cls, pdu: Pdu) -> TextRequest:
        """Read one Text Request.

        Raises:
            MalformedPdu: not a Text Request, or its flags contradict each other.
        """
        opcode, flags, lun, tag, transfer_tag, cmd_sn, exp_stat_sn = cls._LAYOUT.unpack(pdu.bhs)
        _require(opcode & 0x3F == Opcode.TEXT_REQUEST, "not a Text Request")
        _require(tag != RESERVED_TAG, "the initiator task tag is the reserved one")
        _require(flags & (FINAL | CONTINUE) != FINAL | CONTINUE, "F and C are both set")
        return cls(
            immediate=pdu.immediate,
            final=bool(flags & FINAL),
            continued=bool(flags & CONTINUE),
            lun=lun,
            task_tag=tag,
            transfer_tag=transfer_tag,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            text=pdu.data,
        )

    def encode(self) -> bytes:
        """The PDU on the wire."""
        return frame(
            self._LAYOUT.pack(
                Opcode.TEXT_REQUEST | (IMMEDIATE if self.immediate else 0),
                (FINAL if self.final else 0) | (CONTINUE if self.continued else 0),
                self.lun,
                self.task_tag,
                self.transfer_tag,
                self.cmd_sn,
                self.exp_stat_sn,
            ),
            self.text,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogoutRequest:
    """Source: RFC 7143, 11.14."""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BB14xIH2xII16x")

    immediate: bool = False
    reason: LogoutReason
    task_tag: int
    cid: int = 0
    cmd_sn: int
    exp_stat_sn: int

    @classmethod
    def decode(cls, pdu: Pdu) -> LogoutRequest:
        """Read one Logout Request.

        Raises:
            MalformedPdu: not a Logout Request, an unknown reason, or data where none is allowed.
        """
        opcode, flags, tag, cid, cmd_sn, exp_stat_sn = cls._LAYOUT.unpack(pdu.bhs)
        _require(opcode & 0x3F == Opcode.LOGOUT_REQUEST, "not a Logout Request")
        _require(tag != RESERVED_TAG, "the initiator task tag is the reserved one")
        reason = flags & 0x7F
        _require(reason in iter(LogoutReason), f"no logout reason has number {reason}")
        _require(not pdu.data, "a Logout Request carries no data")
        return cls(
            immediate=pdu.immediate,
            reason=LogoutReason(reason),
            task_tag=tag,
            cid=cid,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
        )

    def encode(self) -> bytes:
        """The PDU on the wire."""
        return frame(
            self._LAYOUT.pack(
                Opcode.LOGOUT_REQUEST | (IMMEDIATE if self.immediate else 0),
                FINAL | self.reason,
                self.task_tag,
                self.cid,
                self.cmd_sn,
                self.exp_stat_sn,
            )
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NopOut:
    """Source: RFC 7143, 11.18."""

    _LAYOUT: ClassVar[struct.Struct] = struct.Struct(">BB6xQIIII16x")

    immediate: bool = False
    lun: int = 0
    task_tag: int
    transfer_tag: int = RESERVED_TAG
    cmd_sn: int
    exp_stat_sn: int
    ping: bytes = b""

    @property
    def wants_answer(self) -> bool:
        """False when it only answers our NOP-In or confirms ExpStatSN."""
        return self.task_tag != RESERVED_TAG

    @classmethod
    def decode(cls, pdu: Pdu) -> NopOut:
        """Read one NOP-Out.

        Raises:
            MalformedPdu: not a NOP-Out, or one without a task tag that is not immediate.
        """
        opcode, _flags, lun, tag, transfer_tag, cmd_sn, exp_stat_sn = cls._LAYOUT.unpack(pdu.bhs)
        _require(opcode & 0x3F == Opcode.NOP_OUT, "not a NOP-Out")
        _require(
            pdu.immediate or tag != RESERVED_TAG, "a NOP-Out without a task tag must be immediate"
        )
        return cls(
            immediate=pdu.immediate,
            lun=lun,
            task_tag=tag,
            transfer_tag=transfer_tag,
            cmd_sn=cmd_sn,
            exp_stat_sn=exp_stat_sn,
            ping=pdu.data,
        )

    def encode(self) -> bytes:
        """The PDU on the wire."""
        return frame(
            self._LAYOUT.pack(
                Opcode.NOP_OUT | (IMMEDIATE if self.immediate else 0),
                FINAL,
                self.lun,
                self.task_tag,
                self.transfer_tag,
                self.cmd_sn,
                self.exp_stat_sn,
            ),
            self.ping,
        )


def _require(condition: bool, complaint: str) -> None:
    if not condition:
        raise MalformedPdu(complaint)
