"""The login of one connection as a machine: bytes in, one outcome out per call.

    states      FIRST -> SECURITY -> OPERATIONAL -> FINISHED        (a stage may be skipped, never gone back to)
                any -> FAILED

One Login Request, or several linked by the C bit, is one *step*; a step is answered by one Login Response, or by
several linked by our C bit, each of which the initiator asks for with an empty request. The initiator moves between
stages with the T bit; we agree as soon as the stage has nothing left to say.

Order of checks follows the standard: framing, the request's own fields, version, sameness with the request before,
text, who and whom (first request only), stage. A refusal is a Login Response with a status class and ends the
connection.

What a peer can make us hold: one PDU of 8 KiB, one step's text of ``keys.TEXT_BYTES_MAX``, ``REQUESTS_MAX`` requests.

Source: RFC 7143, 6.3, 11.12, 11.13.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final

from sparrow.base.errors import LocalProtocolError
from sparrow.frontends.iscsi import sequence
from sparrow.frontends.iscsi.directory import TargetDirectory, TargetEntry
from sparrow.frontends.iscsi.errors import IscsiError, LoginRejected, LoginStatus
from sparrow.frontends.iscsi.keys import (
    Pair,
    TextAssembler,
    TextSplitter,
    decode_pairs,
    encode_pairs,
)
from sparrow.frontends.iscsi.naming import is_legal_name
from sparrow.frontends.iscsi.negotiation import RULES, OperationalNegotiation, OperationalOffer
from sparrow.frontends.iscsi.pdu import SEGMENT_BYTES_DEFAULT, Opcode, Pdu, PduReader
from sparrow.frontends.iscsi.requests import LoginRequest, Stage
from sparrow.frontends.iscsi.responses import VERSION, LoginResponse
from sparrow.frontends.iscsi.security import AUTH_METHOD, SecurityStage
from sparrow.frontends.iscsi.session import NegotiatedSession, SessionType

#: A login that needs more requests than this is not getting anywhere.
REQUESTS_MAX: Final = 64
COMMAND_WINDOW_DEFAULT: Final = 128

_IDENTITY_KEYS: Final = frozenset({"InitiatorName", "InitiatorAlias", "TargetName", "SessionType"})
#: Only the target may state these, or only in the full-feature phase.
_NEVER_IN_REQUESTS: Final = frozenset(
    {"TargetAlias", "TargetAddress", "TargetPortalGroupTag", "SendTargets"}
)
_SECURITY_PREFIXES: Final = ("CHAP_", "KRB_", "SPKM_", "SRP_")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginProgress:
    """More bytes are needed; ``send`` may be empty."""

    send: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginAccepted:
    """The login is over; ``send`` must reach the initiator before anything of the session does."""

    send: bytes
    session: NegotiatedSession


LoginOutcome = LoginProgress | LoginAccepted


class _State(Enum):
    FIRST = auto()
    SECURITY = auto()
    OPERATIONAL = auto()
    FINISHED = auto()
    FAILED = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Identity:
    """Who logs in to what, as the first step said."""

    session_type: SessionType
    initiator_name: str
    initiator_alias: str
    target: TargetEntry | None


class LoginMachine:
    """One login.

    Args:
        directory: the targets as they are now.
        tsih: unique among the living sessions of this portal, 1 to 65535; used if the login succeeds.
        command_window: how many commands the initiator may have outstanding.
    """

    def __init__(
        self,
        *,
        directory: TargetDirectory,
        tsih: int,
        offer: OperationalOffer | None = None,
        command_window: int = COMMAND_WINDOW_DEFAULT,
    ) -> None:
        assert 0 < tsih < 1 << 16
        assert command_window > 0
        self._directory = directory
        self._tsih = tsih
        self._offer = offer or OperationalOffer()
        self._command_window = command_window
        # The limit during login is the default of the standard, whatever is declared meanwhile (13.12).
        self._reader = PduReader(segment_bytes_max=SEGMENT_BYTES_DEFAULT)
        self._assembler = TextAssembler()
        self._splitter = TextSplitter()
        self._state = _State.FIRST
        self._requests_count = 0
        self._stat_sn = 0
        self._first: LoginRequest | None = None
        self._asked: LoginRequest | None = None
        self._identity: _Identity | None = None
        self._said: dict[str, str] = {}
        self._security: SecurityStage | None = None
        self._negotiation: OperationalNegotiation | None = None

    def feed(self, data: bytes) -> LoginOutcome:
        """Take bytes from the initiator.

        Returns:
            LoginProgress: send its bytes (if any), then read on.
            LoginAccepted: send its bytes, then hand over its session; the machine is done.
        Raises:
            RemoteProtocolError: send its ``reply``, then close the connection; the machine is done.
            LocalProtocolError: the machine was done before.
        """
        if self._state in (_State.FINISHED, _State.FAILED):
            raise LocalProtocolError("the login is over")
        self._reader.feed(data)
        out = bytearray()
        request: LoginRequest | None = None
        try:
            while (pdu := self._reader.next_pdu()) is not None:
                request = self._decode(pdu)
                response = self._answer(request)
                out += response.encode()
                if response.next_stage is Stage.FULL_FEATURE:
                    self._state = _State.FINISHED
                    return LoginAccepted(send=bytes(out), session=self._session(request))
        except IscsiError as error:
            self._state = _State.FAILED
            error.reply = bytes(out) + self._refusal(error, request)
            raise
        return LoginProgress(send=bytes(out))

    # One request

    def _decode(self, pdu: Pdu) -> LoginRequest:
        self._requests_count += 1
        if self._requests_count > REQUESTS_MAX:
            raise LoginRejected(
                LoginStatus.INITIATOR_ERROR, f"more than {REQUESTS_MAX} Login Requests"
            )
        if pdu.opcode != Opcode.LOGIN_REQUEST:
            raise LoginRejected(
                LoginStatus.INVALID_DURING_LOGIN, f"PDU of opcode {pdu.opcode:#04x} during login"
            )
        return LoginRequest.decode(pdu)

    def _answer(self, request: LoginRequest) -> LoginResponse:
        """Check the request against the login so far and give the response to it."""
        if self._first is None:
            self._open(request)
        else:
            self._check_same_login(request, self._first)
        self._check_stage(request)
        if self._splitter.pending:
            if request.text or request.continued:
                raise LoginRejected(
                    LoginStatus.INITIATOR_ERROR, "text sent while our answer was incomplete"
                )
            return self._respond(request)
        text = self._assembler.add(request.text, continued=request.continued)
        if text is None:
            return self._response(request)
        pairs = decode_pairs(text)
        self._asked = request
        self._splitter.load(encode_pairs(self._step(request, pairs)))
        return self._respond(request)

    def _open(self, request: LoginRequest) -> None:
        if request.version_min > VERSION:
            raise LoginRejected(
                LoginStatus.UNSUPPORTED_VERSION, f"version {request.version_min} or later wanted"
            )
        if request.tsih != 0:
            # One connection per session and ErrorRecoveryLevel 0: there is nothing a connection could join.
            raise LoginRejected(LoginStatus.NO_SUCH_SESSION, f"no session has TSIH {request.tsih}")
        self._first = request
        self._state = _State[request.current_stage.name]

    def _check_same_login(self, request: LoginRequest, first: LoginRequest) -> None:
        if (request.isid, request.tsih, request.cid, request.task_tag) != (
            first.isid,
            first.tsih,
            first.cid,
            first.task_tag,
        ):
            raise LoginRejected(
                LoginStatus.INITIATOR_ERROR, "ISID, TSIH, CID or task tag changed during the login"
            )

    def _check_stage(self, request: LoginRequest) -> None:
        if self._state.name != request.current_stage.name:
            raise LoginRejected(
                LoginStatus.INITIATOR_ERROR,
                f"request of stage {request.current_stage.name} in stage {self._state.name}",
            )

    # One step: the whole text of one or more requests

    def _step(self, request: LoginRequest, pairs: Sequence[Pair]) -> list[Pair]:
        """Act on a whole text; gives the pairs to answer."""
        answers: list[Pair] = []
        said = {key: value for key, value in pairs if key in _IDENTITY_KEYS}
        if self._identity is None:
            self._identity = self._identify(said)
            self._said = said
            answers += self._introduce(self._identity)
        elif not said.items() <= self._said.items():
            # libiscsi repeats its names in every stage, which the standard does not ask for; they must not change.
            raise LoginRejected(
                LoginStatus.INITIATOR_ERROR, "names changed after the first request"
            )
        pairs = [pair for pair in pairs if pair[0] not in _IDENTITY_KEYS]
        _check_keys(request.current_stage, pairs)
        if request.current_stage is Stage.SECURITY:
            assert self._security is not None
            answers += self._security.step(pairs, transit=request.transit).answers
        else:
            assert self._security is not None
            assert self._negotiation is not None
            if not self._security.complete:
                self._security.require_skippable()
            answers += self._negotiation.step(pairs)
        return answers

    def _identify(self, said: dict[str, str]) -> _Identity:
        """Who and whom, from the first text."""
        initiator_name = said.get("InitiatorName", "")
        if not initiator_name:
            raise LoginRejected(LoginStatus.MISSING_PARAMETER, "InitiatorName is missing")
        if not is_legal_name(initiator_name):
            raise LoginRejected(LoginStatus.INITIATOR_ERROR, "InitiatorName is no iSCSI name")
        try:
            session_type = SessionType(said.get("SessionType", SessionType.NORMAL.value))
        except ValueError:
            raise LoginRejected(
                LoginStatus.SESSION_TYPE_UNSUPPORTED, "SessionType is neither Normal nor Discovery"
            ) from None
        target = None
        if session_type is SessionType.NORMAL:
            target = self._target(said.get("TargetName", ""), initiator_name)
        if target is None:
            policy = self._directory.discovery_policy(initiator_name)
        else:
            admitted = target.policy(initiator_name)
            assert admitted is not None, "refused above"
            policy = admitted
        self._security = SecurityStage(policy, initiator_name=initiator_name)
        self._negotiation = OperationalNegotiation(
            offer=self._offer, discovery=session_type is SessionType.DISCOVERY
        )
        return _Identity(
            session_type=session_type,
            initiator_name=initiator_name,
            initiator_alias=said.get("InitiatorAlias", ""),
            target=target,
        )

    def _target(self, name: str, initiator_name: str) -> TargetEntry:
        if not name:
            raise LoginRejected(LoginStatus.MISSING_PARAMETER, "TargetName is missing")
        target = self._directory.find(name)
        if target is None:
            raise LoginRejected(LoginStatus.NOT_FOUND, "no target of that name here")
        if not target.admits(initiator_name):
            raise LoginRejected(LoginStatus.FORBIDDEN, "this initiator may not use the target")
        if target.redirect is not None:
            raise _Redirected(target.redirect.authority)
        return target

    def _introduce(self, identity: _Identity) -> list[Pair]:
        """What the first answer says of the target; a discovery session has none (13.9)."""
        if identity.target is None:
            return []
        pairs = [("TargetPortalGroupTag", str(identity.target.group_tag))]
        if identity.target.alias:
            pairs.append(("TargetAlias", identity.target.alias))
        return pairs

    # Responses

    def _respond(self, request: LoginRequest) -> LoginResponse:
        """The next piece of our answer; with the last one the transition, when it was asked for and can be had."""
        text = self._splitter.next_segment(SEGMENT_BYTES_DEFAULT)
        if self._splitter.pending:
            return replace(self._response(request), continued=True, text=text)
        asked = self._asked
        assert asked is not None
        assert self._security is not None
        response = replace(self._response(request), text=text)
        if asked.next_stage is None or not self._security.complete:
            return response
        self._state = _State.OPERATIONAL if asked.next_stage is Stage.OPERATIONAL else self._state
        final = asked.next_stage is Stage.FULL_FEATURE
        return replace(
            response, transit=True, next_stage=asked.next_stage, tsih=self._tsih if final else 0
        )

    def _response(self, request: LoginRequest) -> LoginResponse:
        """An empty response that stays in the stage; takes one StatSN."""
        stat_sn = self._stat_sn
        self._stat_sn = sequence.advance(stat_sn)
        return LoginResponse(
            current_stage=request.current_stage,
            isid=request.isid,
            tsih=request.tsih,
            task_tag=request.task_tag,
            stat_sn=stat_sn,
            # Login Requests are immediate: the CmdSN they carry is still the next one to come (11.12.8).
            exp_cmd_sn=request.cmd_sn,
            max_cmd_sn=sequence.advance(request.cmd_sn, self._command_window - 1),
        )

    def _refusal(self, error: IscsiError, request: LoginRequest | None) -> bytes:
        """The Login Response that says why; empty when the peer has shown nothing it could be an answer to."""
        request = request or self._first
        if request is None:
            return b""
        status = error.status if isinstance(error, LoginRejected) else LoginStatus.INITIATOR_ERROR
        pairs = [("TargetAddress", error.address)] if isinstance(error, _Redirected) else []
        return replace(self._response(request), status=status, text=encode_pairs(pairs)).encode()

    def _session(self, request: LoginRequest) -> NegotiatedSession:
        identity, negotiation = self._identity, self._negotiation
        assert identity is not None
        assert negotiation is not None
        target = identity.target
        return NegotiatedSession(
            session_type=identity.session_type,
            initiator_name=identity.initiator_name,
            initiator_alias=identity.initiator_alias,
            target_name=target.name if target else "",
            volume_id=target.volume_id if target else None,
            group_tag=target.group_tag if target else 0,
            isid=request.isid,
            tsih=self._tsih,
            cid=request.cid,
            exp_cmd_sn=request.cmd_sn,
            max_cmd_sn=sequence.advance(request.cmd_sn, self._command_window - 1),
            stat_sn=self._stat_sn,
            exp_stat_sn=request.exp_stat_sn,
            parameters=negotiation.parameters(),
            residual=self._reader.take_rest(),
        )


class _Redirected(LoginRejected, code="iscsi.login_redirected"):
    """The target is to be reached elsewhere for now."""

    def __init__(self, address: str) -> None:
        super().__init__(LoginStatus.MOVED_TEMPORARILY, f"the target is served at {address}")
        self.address = address


def _check_keys(stage: Stage, pairs: Sequence[Pair]) -> None:
    """Refuse keys that must not be sent, or not in this stage. Keys nobody knows are answered, not refused."""
    for key, _ in pairs:
        if key in _NEVER_IN_REQUESTS:
            raise LoginRejected(
                LoginStatus.INITIATOR_ERROR, f"{key} is not for an initiator to send in login"
            )
        security = key == AUTH_METHOD or key.startswith(_SECURITY_PREFIXES)
        if security and stage is not Stage.SECURITY:
            raise LoginRejected(LoginStatus.INITIATOR_ERROR, f"{key} outside the security stage")
        if key in RULES and stage is Stage.SECURITY:
            raise LoginRejected(LoginStatus.INITIATOR_ERROR, f"{key} in the security stage")
