"""One peer: its stage, how far it is on its way into the in-sync set or out of it.

AWAY        no link; joined again after a while
JOINING     asked for the common point of its log with ours
PREPARING   emptying its files for a rebuild
CONNECTING  link being made
FEEDING     the core ships the log to it
REBUILDING  the core ships base and live lane to it
SET_ASIDE   quarantined: kept as it is, reported, asked again rarely
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from sparrow.authority.adapter import Dispatch, PeerAdapter
from sparrow.authority.types import Lineage
from sparrow.base.ids import NO_LINK, LinkId, Lsn, ReplicaId, ReplicaUuid
from sparrow.node.pace import Pace

#: Before a peer that nobody waits for is joined again, at first.
PROBE_FIRST_S: Final = 1.0
#: Before what was refused is asked for again.
ASK_AGAIN_S: Final = 1.0


class Stage(StrEnum):
    """What is done with one peer; see the module's text."""

    AWAY = "away"
    JOINING = "joining"
    PREPARING = "preparing"
    CONNECTING = "connecting"
    FEEDING = "feeding"
    REBUILDING = "rebuilding"
    SET_ASIDE = "set_aside"


class Grow(StrEnum):
    """How far the executor is with a peer the engine wants grown."""

    NONE = "none"
    #: The engine wants it; it waits for its turn and for the control stream.
    WANTED = "wanted"
    RECORDING = "recording"
    REQUIRING = "requiring"
    PROVING = "proving"
    ASKED = "asked"
    #: Refused: it stays needed until the record without it is durable.
    ENDING = "ending"


#: Durable as pending, or about to be.
PENDING: Final = {Grow.RECORDING, Grow.REQUIRING, Grow.PROVING, Grow.ASKED, Grow.ENDING}
LINKED: Final = {Stage.FEEDING, Stage.REBUILDING}
#: Or may have, for all that is known here.
CORE_HAS: Final = {Stage.CONNECTING, *LINKED}


@dataclass(slots=True)
class Fed:
    """One peer. Times are the machine's clock, seconds."""

    replica: ReplicaId
    uuid: ReplicaUuid
    adapter: PeerAdapter
    stage: Stage = Stage.AWAY
    #: The newest one; none while it is away or set aside.
    link: LinkId = NO_LINK
    probe_at: float = 0.0
    pause_s: float = PROBE_FIRST_S
    lost_at: float | None = None
    joined_lsn: Lsn = Lsn(0)
    #: The engine's session under way, and what it is to reach.
    session: Dispatch | None = None
    silent: bool = False
    #: Since when it owes an acknowledgement or a grant.
    owing_since: float | None = None
    granted: bool = False
    #: Durable there in the files that the newest join met, by acks of this term.
    acked_lsn: Lsn = Lsn(0)
    pace: Pace = field(default_factory=Pace)
    #: Asked out because it is slow.
    slow: bool = False
    #: It applies nothing, for want of room in its pool.
    full: bool = False
    grow: Grow = Grow.NONE
    grow_at: float = 0.0
    asked_out: Lineage | None = None
    ask_at: float = 0.0


@dataclass(slots=True, kw_only=True)
class Leaving:
    """A peer on its way out of a set in which an entry commits on some."""

    replica: ReplicaId
    reason: str
    #: Tells the answer that belongs to it from one to an attempt before.
    attempt: int
    #: The commit LSN when all others became needed; None until then.
    frozen_lsn: Lsn | None = None
    asked: bool = False
