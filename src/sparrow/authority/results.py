"""What an ask comes to: a line that stands, a refusal, or a store that would not take it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from sparrow.authority.types import Ask, Line, Lineage


class Refusal(StrEnum):
    """Why an ask was refused. Closed set; the first failing check names it."""

    NO_VOLUME = "ask.no_volume"
    NO_REPLICA = "ask.no_replica"
    UNKNOWN_INTENT = "ask.unknown_intent"
    NO_MEMBERS = "ask.no_members"
    NO_DATA_ADDR = "ask.no_data_addr"
    NO_CTRL_ADDR = "ask.no_ctrl_addr"
    NO_UUID = "ask.no_uuid"
    DUPLICATE_MEMBER = "ask.duplicate_member"
    TOO_MANY_MEMBERS = "ask.too_many_members"
    NO_SHAPE = "ask.no_shape"
    BAD_SHAPE = "ask.bad_shape"
    NO_BASIS = "ask.no_basis"
    NO_ASKER = "ask.no_asker"
    #: The asker is not hosted by the node that sent the ask, or the intent is not for nodes.
    FOREIGN_ASKER = "ask.foreign_asker"
    QUARANTINED = "authority.record_quarantined"
    ALREADY_BOUND = "authority.already_bound"
    NOT_BOUND = "authority.not_bound"
    RETIRED = "authority.retired"
    STALE_BASIS = "authority.stale_basis"
    #: The asker knows a newer line than the record: an old store was restored. Ends nothing at the asker.
    BASIS_AHEAD = "authority.basis_ahead"
    NOT_PRIMARY = "authority.not_primary"
    NOT_A_MEMBER = "authority.not_a_member"
    UUID_MISMATCH = "authority.uuid_mismatch"
    NOT_IN_SYNC = "authority.not_in_sync"
    PRIMARY_STAYS = "authority.primary_stays"
    MEMBER_IN_USE = "authority.member_in_use"
    #: Its files may be the only copy of something; an operator discards them first.
    SET_ASIDE = "authority.set_aside"
    NOT_SET_ASIDE = "authority.not_set_aside"
    #: The shrink would stop writes although another in-sync replica can take over: the controller does that.
    HAND_OVER_FIRST = "authority.hand_over_first"


@dataclass(frozen=True, slots=True, kw_only=True)
class Minted:
    """A new line, durable before this value existed. ``previous`` is the line it follows."""

    ask: Ask
    line: Line
    previous: Line | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unchanged:
    """The recorded line already says what was asked."""

    ask: Ask
    line: Line


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedAsk:
    """A rule said no, for good: an ask with this basis can never be applied later.

    ``recorded`` is the line that stands, None where there is none.
    """

    ask: Ask
    code: Refusal
    message: str
    basis: Lineage | None
    recorded: Line | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutFailed:
    """The store did not take the line: nothing was minted, nothing was delivered. No answer to the asker."""

    ask: Ask
    cause: str


AskResult: TypeAlias = Minted | Unchanged | RefusedAsk | PutFailed
