"""What an opening knows: where it stands, what was promised to others, and each other member."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sparrow.authority.types import Lineage, Term
from sparrow.base.ids import NO_LINK, LinkId, Lsn, ReplicaId
from sparrow.node.link_ids import Link
from sparrow.ports.dataplane import FenceReport

#: A peer that refused the connection may be starting: ask again sooner than the deadline.
RETRY_SOON_S: Final = 0.1
#: A needed peer whose join or link fails for this long is asked out.
TROUBLE_S: Final = 0.5
ASK_AGAIN_S: Final = 1.0
BLOCKED_RETRY_S: Final = 2.0


class Phase(StrEnum):
    """Where the opening stands; see the module's text."""

    STARTING = "starting"
    FENCING = "fencing"
    ADOPTING = "adopting"
    JOINING = "joining"
    COMMITTING = "committing"
    ALLOWED = "allowed"
    BLOCKED = "blocked"
    OVER = "over"


JOINS: Final = {Phase.JOINING, Phase.COMMITTING}


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What one answer said of promises to others. Times are the machine's clock, seconds."""

    until: float
    to: Term | None
    #: When all but the one to ``to`` have run out.
    older_until: float


@dataclass(slots=True)
class Follower:
    """What the opening knows of one other member. Times are the machine's clock, seconds."""

    replica: ReplicaId
    report: FenceReport | None = None
    first_sent_at: float | None = None
    attempts: int = 0
    waiting_until: float | None = None
    send_at: float = 0.0
    timed_out: bool = False
    unusable: str = ""
    link: Link = Link.NONE
    link_id: LinkId = NO_LINK
    joined_lsn: Lsn = Lsn(0)
    join_at: float = 0.0
    trouble_since: float | None = None
    asked: Lineage | None = None
    ask_at: float = 0.0
