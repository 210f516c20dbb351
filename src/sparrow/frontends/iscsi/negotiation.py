"""Operational keys as a table: how each is negotiated, its default, its range, and what we offer.

    kind              result
    MINIMUM/MAXIMUM   of the two numbers
    AND/OR            of the two truth values
    LIST              the initiator's first value that we know
    DECLARED          no negotiation: each side states its own number
    MARKER            obsolete; answered No or Reject, never NotUnderstood (RFC 7143, 13.25)

An unknown key is answered NotUnderstood, a known one with a value out of its domain Reject, one that has no meaning
in a discovery session Irrelevant; in all three cases the default stays. A key may be negotiated once per login.

Source: RFC 7143, 6.2 and 13.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

from sparrow.frontends.iscsi.errors import LoginRejected, LoginStatus
from sparrow.frontends.iscsi.keys import (
    IRRELEVANT,
    NONE,
    NOT_UNDERSTOOD,
    REJECT,
    Pair,
    format_bool,
    parse_bool,
    parse_number,
)
from sparrow.frontends.iscsi.pdu import SEGMENT_BYTES_DEFAULT

SEGMENT_BYTES_MIN: Final = 512
SEGMENT_BYTES_MAX: Final = (1 << 24) - 1

Value = int | bool | str


class Kind(Enum):
    """How a key gets its value; see the table above."""

    MINIMUM = auto()
    MAXIMUM = auto()
    AND = auto()
    OR = auto()
    LIST = auto()
    DECLARED = auto()
    MARKER = auto()
    MARKER_INTERVAL = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRule:
    """One row of the table; low and high bound numbers, both inclusive."""

    kind: Kind
    default: Value = ""
    low: int = 0
    high: int = 0
    in_discovery: bool = True


def _number(kind: Kind, default: int, low: int, high: int, *, in_discovery: bool = True) -> KeyRule:
    return KeyRule(kind=kind, default=default, low=low, high=high, in_discovery=in_discovery)


RULES: Final[dict[str, KeyRule]] = {
    "HeaderDigest": KeyRule(kind=Kind.LIST, default=NONE),
    "DataDigest": KeyRule(kind=Kind.LIST, default=NONE),
    "MaxConnections": _number(Kind.MINIMUM, 1, 1, 65535, in_discovery=False),
    "InitialR2T": KeyRule(kind=Kind.OR, default=True, in_discovery=False),
    "ImmediateData": KeyRule(kind=Kind.AND, default=True, in_discovery=False),
    "MaxRecvDataSegmentLength": _number(
        Kind.DECLARED, SEGMENT_BYTES_DEFAULT, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX
    ),
    "MaxBurstLength": _number(
        Kind.MINIMUM, 262144, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX, in_discovery=False
    ),
    "FirstBurstLength": _number(
        Kind.MINIMUM, 65536, SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX, in_discovery=False
    ),
    "DefaultTime2Wait": _number(Kind.MAXIMUM, 2, 0, 3600),
    "DefaultTime2Retain": _number(Kind.MINIMUM, 20, 0, 3600),
    "MaxOutstandingR2T": _number(Kind.MINIMUM, 1, 1, 65535, in_discovery=False),
    "DataPDUInOrder": KeyRule(kind=Kind.OR, default=True, in_discovery=False),
    "DataSequenceInOrder": KeyRule(kind=Kind.OR, default=True, in_discovery=False),
    "ErrorRecoveryLevel": _number(Kind.MINIMUM, 0, 0, 2),
    "TaskReporting": KeyRule(kind=Kind.LIST, default="RFC3720", in_discovery=False),
    "iSCSIProtocolLevel": _number(Kind.MINIMUM, 1, 0, 31, in_discovery=False),
    "IFMarker": KeyRule(kind=Kind.MARKER),
    "OFMarker": KeyRule(kind=Kind.MARKER),
    "IFMarkInt": KeyRule(kind=Kind.MARKER_INTERVAL),
    "OFMarkInt": KeyRule(kind=Kind.MARKER_INTERVAL),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationalOffer:
    """Our side of every negotiation; bytes unless the name says otherwise.

    An initiator may stay silent about a key; then the default of the standard holds, whatever is said here. So no
    limit may be lower than its default, and the core must be ready for either truth value.

    Attributes:
        segment_bytes_max: the longest data segment the native core receives into one buffer.
        digests: names we can do, for header and data alike.
        time_to_wait_s: 0 lets an initiator come back at once after a failover; it may insist on more.
    """

    segment_bytes_max: int = 262144
    burst_bytes_max: int = 1048576
    first_burst_bytes_max: int = 262144
    initial_r2t: bool = False
    immediate_data: bool = True
    outstanding_r2t_max: int = 1
    digests: tuple[str, ...] = (NONE,)
    time_to_wait_s: int = 0
    time_to_retain_s: int = 0

    def __post_init__(self) -> None:
        assert SEGMENT_BYTES_MIN <= self.segment_bytes_max <= SEGMENT_BYTES_MAX
        assert 65536 <= self.first_burst_bytes_max <= self.burst_bytes_max
        assert 262144 <= self.burst_bytes_max <= SEGMENT_BYTES_MAX

    def values(self) -> dict[str, tuple[Value, ...]]:
        """By key; more than one value only where the key is a list."""
        return {
            "HeaderDigest": self.digests,
            "DataDigest": self.digests,
            "MaxConnections": (1,),
            "InitialR2T": (self.initial_r2t,),
            "ImmediateData": (self.immediate_data,),
            "MaxRecvDataSegmentLength": (self.segment_bytes_max,),
            "MaxBurstLength": (self.burst_bytes_max,),
            "FirstBurstLength": (self.first_burst_bytes_max,),
            "DefaultTime2Wait": (self.time_to_wait_s,),
            "DefaultTime2Retain": (self.time_to_retain_s,),
            "MaxOutstandingR2T": (self.outstanding_r2t_max,),
            "DataPDUInOrder": (True,),
            "DataSequenceInOrder": (True,),
            "ErrorRecoveryLevel": (0,),
            "TaskReporting": ("RFC3720",),
            "iSCSIProtocolLevel": (1,),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationalParameters:
    """What was agreed on; bytes unless the name says otherwise. Defaults are those of the standard."""

    header_digest: bool = False
    data_digest: bool = False
    initiator_segment_bytes_max: int = SEGMENT_BYTES_DEFAULT
    target_segment_bytes_max: int = SEGMENT_BYTES_DEFAULT
    burst_bytes_max: int = 262144
    first_burst_bytes_max: int = 65536
    initial_r2t: bool = True
    immediate_data: bool = True
    outstanding_r2t_max: int = 1
    time_to_wait_s: int = 2
    time_to_retain_s: int = 20


@dataclass(slots=True, kw_only=True)
class OperationalNegotiation:
    """The operational keys of one login as they settle.

    Attributes:
        discovery: keys that only matter for data transfer are Irrelevant.
    """

    offer: OperationalOffer
    discovery: bool
    _agreed: dict[str, Value] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _declared: bool = False

    def step(self, pairs: Iterable[Pair]) -> tuple[Pair, ...]:
        """Settle the keys of one request; gives the answers in the same order.

        Our own MaxRecvDataSegmentLength is declared with the first answer.

        Raises:
            LoginRejected: a key came a second time.
        """
        answers: list[Pair] = []
        for key, value in pairs:
            if key in self._seen:
                raise LoginRejected(LoginStatus.INITIATOR_ERROR, f"{key} was negotiated already")
            if key in RULES:
                # Only known keys are kept: the set stays as small as the table.
                self._seen.add(key)
            answer = self._settle(key, value)
            if answer is not None:
                answers.append((key, answer))
        if not self._declared:
            self._declared = True
            answers.append(("MaxRecvDataSegmentLength", str(self.offer.segment_bytes_max)))
        return tuple(answers)

    def parameters(self) -> OperationalParameters:
        """What holds from the full-feature phase on."""
        burst = self._number("MaxBurstLength")
        return OperationalParameters(
            header_digest=self._value("HeaderDigest") != NONE,
            data_digest=self._value("DataDigest") != NONE,
            initiator_segment_bytes_max=self._number("MaxRecvDataSegmentLength"),
            target_segment_bytes_max=(
                self.offer.segment_bytes_max if self._declared else SEGMENT_BYTES_DEFAULT
            ),
            burst_bytes_max=burst,
            # An initiator that settled the two in an unlucky order is still held to 13.14: first <= whole.
            first_burst_bytes_max=min(self._number("FirstBurstLength"), burst),
            initial_r2t=bool(self._value("InitialR2T")),
            immediate_data=bool(self._value("ImmediateData")),
            outstanding_r2t_max=self._number("MaxOutstandingR2T"),
            time_to_wait_s=self._number("DefaultTime2Wait"),
            time_to_retain_s=self._number("DefaultTime2Retain"),
        )

    def _settle(self, key: str, value: str) -> str | None:
        """The answer to one offer, None where the standard wants no answer."""
        rule = RULES.get(key)
        if rule is None:
            return NOT_UNDERSTOOD
        if self.discovery and not rule.in_discovery:
            return IRRELEVANT
        if rule.kind is Kind.MARKER:
            return format_bool(False)
        if rule.kind is Kind.MARKER_INTERVAL:
            return REJECT
        # Digests end here in discovery too: those sessions stay in Python, where no digest is computed.
        ours: tuple[Value, ...] = self.offer.values()[key]
        if self.discovery and rule.kind is Kind.LIST:
            ours = (NONE,)
        result = _combine(rule, value, ours)
        if result is None:
            return REJECT
        self._agreed[key] = result
        if rule.kind is Kind.DECLARED:
            return None
        return format_bool(result) if isinstance(result, bool) else str(result)

    def _value(self, key: str) -> Value:
        return self._agreed.get(key, RULES[key].default)

    def _number(self, key: str) -> int:
        return int(self._value(key))


def _combine(rule: KeyRule, value: str, ours: tuple[Value, ...]) -> Value | None:
    """The result of an offer under its rule, None when the value is outside the key's domain."""
    match rule.kind:
        case Kind.LIST:
            return next((item for item in value.split(",") if item in ours), None)
        case Kind.AND | Kind.OR:
            truth = parse_bool(value)
            if truth is None:
                return None
            mine = bool(ours[0])
            return truth and mine if rule.kind is Kind.AND else truth or mine
        case _:
            number = parse_number(value)
            if number is None or not rule.low <= number <= rule.high:
                return None
            if rule.kind is Kind.DECLARED:
                return number
            mine_number = int(ours[0])
            return (
                min(number, mine_number) if rule.kind is Kind.MINIMUM else max(number, mine_number)
            )
