"""The full-feature phase of a discovery session, whole: SendTargets, NOP-Out, Logout.

Any other request is answered by a Reject and the session goes on, as RFC 7143, 7.3 allows for a format the target
does not support; a request that breaks framing or the text rules ends it.

Source: RFC 7143, 4.3 (session types), 11.10, 11.14, 11.17, 11.18.
"""

from __future__ import annotations

from dataclasses import dataclass

from sparrow.base.errors import LocalProtocolError
from sparrow.frontends.iscsi import sequence
from sparrow.frontends.iscsi.directory import TargetDirectory
from sparrow.frontends.iscsi.discovery import answer_text
from sparrow.frontends.iscsi.errors import IscsiError
from sparrow.frontends.iscsi.pdu import Opcode, Pdu, PduReader
from sparrow.frontends.iscsi.requests import LogoutReason, LogoutRequest, NopOut, TextRequest
from sparrow.frontends.iscsi.responses import (
    LogoutOutcome,
    LogoutResponse,
    NopIn,
    Reject,
    RejectReason,
    TextResponse,
)
from sparrow.frontends.iscsi.session import NegotiatedSession, SessionType
from sparrow.frontends.iscsi.text import TextExchange


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOutcome:
    """Send the bytes (if any); then close the connection if the session ended."""

    send: bytes
    closed: bool


class DiscoverySession:
    """Runs one discovery session after its login; feed it first with nothing: it starts on the residual bytes."""

    def __init__(self, session: NegotiatedSession, directory: TargetDirectory) -> None:
        assert session.session_type is SessionType.DISCOVERY
        self._session = session
        self._directory = directory
        self._reader = PduReader(segment_bytes_max=session.parameters.target_segment_bytes_max)
        self._reader.feed(session.residual)
        self._text = TextExchange(segment_bytes_max=session.parameters.initiator_segment_bytes_max)
        self._window = sequence.distance(session.exp_cmd_sn, session.max_cmd_sn)
        self._exp_cmd_sn = session.exp_cmd_sn
        self._stat_sn = session.stat_sn
        self._closed = False

    @property
    def closed(self) -> bool:
        """No more is to be fed: logged out, or ended by an error."""
        return self._closed

    def feed(self, data: bytes) -> SessionOutcome:
        """Take bytes from the initiator.

        Raises:
            RemoteProtocolError: send its ``reply``, then close the connection.
            LocalProtocolError: the session ended before.
        """
        if self._closed:
            raise LocalProtocolError("the discovery session is over")
        self._reader.feed(data)
        out = bytearray()
        pdu: Pdu | None = None
        try:
            while (pdu := self._reader.next_pdu()) is not None:
                out += self._handle(pdu)
                if self.closed:
                    break
        except IscsiError as error:
            self._closed = True
            error.reply = bytes(out)
            if pdu is not None:
                error.reply += self._reject(pdu, RejectReason.PROTOCOL_ERROR)
            raise
        return SessionOutcome(send=bytes(out), closed=self._closed)

    def _handle(self, pdu: Pdu) -> bytes:
        match pdu.opcode:
            case Opcode.TEXT_REQUEST:
                text = TextRequest.decode(pdu)
                return self._answer_text(text) if self._in_order(pdu, text.cmd_sn) else b""
            case Opcode.NOP_OUT:
                nop = NopOut.decode(pdu)
                return self._answer_nop(nop) if self._in_order(pdu, nop.cmd_sn) else b""
            case Opcode.LOGOUT_REQUEST:
                logout = LogoutRequest.decode(pdu)
                return self._answer_logout(logout) if self._in_order(pdu, logout.cmd_sn) else b""
            case _:
                return self._reject(pdu, RejectReason.COMMAND_NOT_SUPPORTED)

    def _in_order(self, pdu: Pdu, cmd_sn: int) -> bool:
        """Take the command's number; False for one the standard wants silently ignored (4.2.2.1).

        There is one connection, so the next command in the stream is the next number or it is a duplicate.
        """
        if pdu.immediate:
            return True
        if cmd_sn != self._exp_cmd_sn:
            return False
        self._exp_cmd_sn = sequence.advance(cmd_sn)
        return True

    def _answer_text(self, request: TextRequest) -> bytes:
        step = self._text.step(
            request,
            lambda pairs: answer_text(
                pairs, directory=self._directory, initiator_name=self._session.initiator_name
            ),
        )
        return TextResponse(
            final=step.final,
            continued=step.continued,
            lun=request.lun,
            task_tag=request.task_tag,
            transfer_tag=step.transfer_tag,
            stat_sn=self._take_stat_sn(),
            exp_cmd_sn=self._exp_cmd_sn,
            max_cmd_sn=self._max_cmd_sn,
            text=step.text,
        ).encode()

    def _answer_nop(self, request: NopOut) -> bytes:
        if not request.wants_answer:
            return b""
        return NopIn(
            lun=request.lun,
            task_tag=request.task_tag,
            stat_sn=self._take_stat_sn(),
            exp_cmd_sn=self._exp_cmd_sn,
            max_cmd_sn=self._max_cmd_sn,
            # The echo may be cut to what the initiator can take (11.18.3).
            ping=request.ping[: self._session.parameters.initiator_segment_bytes_max],
        ).encode()

    def _answer_logout(self, request: LogoutRequest) -> bytes:
        outcome = LogoutOutcome.CLOSED
        if request.reason is LogoutReason.REMOVE_FOR_RECOVERY:
            outcome = LogoutOutcome.RECOVERY_UNSUPPORTED
        elif request.reason is LogoutReason.CLOSE_CONNECTION and request.cid != self._session.cid:
            outcome = LogoutOutcome.CID_NOT_FOUND
        self._closed = outcome is LogoutOutcome.CLOSED
        return LogoutResponse(
            outcome=outcome,
            task_tag=request.task_tag,
            stat_sn=self._take_stat_sn(),
            exp_cmd_sn=self._exp_cmd_sn,
            max_cmd_sn=self._max_cmd_sn,
        ).encode()

    def _reject(self, pdu: Pdu, reason: RejectReason) -> bytes:
        return Reject(
            reason=reason,
            stat_sn=self._take_stat_sn(),
            exp_cmd_sn=self._exp_cmd_sn,
            max_cmd_sn=self._max_cmd_sn,
            header=pdu.bhs,
        ).encode()

    @property
    def _max_cmd_sn(self) -> int:
        return sequence.advance(self._exp_cmd_sn, self._window)

    def _take_stat_sn(self) -> int:
        stat_sn = self._stat_sn
        self._stat_sn = sequence.advance(stat_sn)
        return stat_sn
