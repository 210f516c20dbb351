"""Authority, for operators: its status, and verbs that bring back what was lost."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from sparrow.authority.recovery import AuditEntry, MarkKind
from sparrow.authority.types import Line, Lineage, SkippedRecord
from sparrow.base.ids import NodeId, VolumeId
from sparrow.rpc.messages.pages import Page, PageRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityStatusRequest(PageRequest):
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class UnconfirmedVolume:
    """``missing`` says what keeps it from being confirmed; empty where only an operator's word is missing."""

    volume_id: VolumeId
    kind: MarkKind
    cause: str
    newest: Lineage | None
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCopyView:
    """A node that keeps a copy of the store; ``current``: it holds everything that is durable now."""

    node_id: NodeId
    master_generation: int
    revision: int
    current: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityStatus(Page):
    """All of it, or a page of ``skipped``, ``lines`` and ``unconfirmed``; the rest is on the first one."""

    master_generation: int
    skipped: tuple[SkippedRecord, ...]
    lines: tuple[Line, ...]
    #: Volumes for which nothing is minted until their nodes, or an operator, confirm them.
    unconfirmed: tuple[UnconfirmedVolume, ...] = ()
    #: Nodes named at a recovery that have not answered yet.
    awaited_nodes: tuple[str, ...] = ()
    #: The last decisions made by hand, newest first.
    audit: tuple[AuditEntry, ...] = ()
    copies: tuple[StoreCopyView, ...] = ()


class RecoveryVerb(IntEnum):
    """What an operator wants done about a volume's record."""

    #: From its nodes, when all members of the newest line answered; by force, from those that did.
    RECOVER = 1
    #: The same for a damaged row.
    REPAIR = 2
    #: End the volume and all its data, above every epoch seen; always by force.
    RESET = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlanRequest:
    volume_id: VolumeId
    verb: RecoveryVerb


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryPlan:
    """What is known of a volume now, and what may be lost by force.

    ``previous`` is the record before the damaged one, for a person to read; it is never used.
    """

    volume_id: VolumeId
    newest: Line | None
    missing: tuple[str, ...]
    loss: str
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverRequest:
    """``confirm`` repeats the volume's name when ``force`` is set. ``who`` is kept in the audit."""

    volume_id: VolumeId
    verb: RecoveryVerb
    force: bool = False
    confirm: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverAnswer:
    """The line that stands now; None for a volume that had none and may be bound anew."""

    line: Line | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpNodeRequest:
    """Stop waiting for a node named at a recovery; ``confirm`` repeats the address."""

    address: str
    confirm: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GiveUpNodeAnswer:
    awaited_nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupRequest:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class BackupChunk:
    """The next bytes of a copy of the master's database, and what it is a copy of."""

    data: bytes
    master_generation: int = 0
    #: Counts changes within one generation; the copy has at least this many.
    revision: int = 0
