"""What the twin of one node holds: durable files, and what dies with its process."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.ids import Epoch, LinkId, Lsn, ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane.model.links import End
from sparrow.dataplane.model.log import NO_TERM, ModelLog
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.ports.dataplane import RebuildPlan

#: Entries whose time is known, and how long the slowest acknowledgement is remembered.
PACES_MAX: Final = 256
PACE_S: Final = 0.5


@dataclass(slots=True)
class ModelFiles:
    """The durable side of one replica."""

    replica_id: ReplicaId
    uuid: ReplicaUuid
    size_bytes: int
    block_size: int
    log: ModelLog = field(default_factory=ModelLog)
    state: ReplicaState = ReplicaState.CLEAN
    suspect: bool = False
    start: int = 0
    promised_epoch: Epoch = Epoch(0)
    promised_primary: ReplicaId | None = None
    line: Line | None = None
    pending: tuple[ReplicaId, ...] = ()
    applied: Lsn = Lsn(0)
    must_reach: Lsn = Lsn(0)
    damaged: set[int] = field(default_factory=set)
    damaged_sums: set[int] = field(default_factory=set)
    damaged_lsns: set[int] = field(default_factory=set)
    superblock_damaged: bool = False
    #: Pages of a block that was rebuilt without anybody who knew their sums.
    lost: set[int] = field(default_factory=set)

    def damages(self, page: int) -> bool:
        """Whether nothing true can be read of it."""
        return (
            page in self.damaged
            or page in self.lost
            or page // PAGES_PER_BLOCK in self.damaged_sums
        )

    #: Maps of members outside the in-sync set: from which LSN on, and the pages applied since.
    absences: dict[ReplicaUuid, tuple[Lsn, set[int]]] = field(default_factory=dict)
    #: While it is being rebuilt: the pages it kept, which hold everything up to ``kept_from``.
    kept: dict[int, bytes] = field(default_factory=dict)
    kept_from: Lsn | None = None

    def apply(self, lsn: Lsn) -> None:
        """Entries up to ``lsn`` are in the extents; their pages are in the maps."""
        if self.absences and lsn > self.applied:
            touched = self.log.touched(self.applied, lsn)
            for _from, pages in self.absences.values():
                pages.update(touched)
        self.applied = lsn


@dataclass(slots=True)
class ModelPool:
    """What survives the process of one node."""

    files: dict[VolumeId, ModelFiles] = field(default_factory=dict)


@dataclass(slots=True)
class ModelPeer:
    """One fed peer. ``link`` None after it was lost."""

    node_key: int
    link: LinkId
    end: End
    shipped: Lsn
    heard_at: float
    acked: Lsn = Lsn(0)
    #: When acknowledgements came, and how long each took.
    paces: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=PACES_MAX))
    rebuilding: bool = False
    plan: RebuildPlan | None = None
    waiters: list[tuple[Lsn, asyncio.Future[None]]] = field(default_factory=list)


@dataclass(slots=True)
class ModelVolume:
    """The volatile side of one open replica."""

    files: ModelFiles
    term: Term = NO_TERM
    primary: bool = False
    commit: Lsn = Lsn(0)
    served: int = 0
    writable: bool = False
    needed: tuple[int, ...] = ()
    one_of: tuple[int, ...] = ()
    ack_local: bool = False
    #: The newest entries of this process, with when each was appended.
    appended: deque[tuple[Lsn, float]] = field(default_factory=lambda: deque(maxlen=PACES_MAX))
    #: Answered up to here before it was committed (ack=local).
    answered: Lsn = Lsn(0)
    peers: dict[int, ModelPeer] = field(default_factory=dict)
    node_of: dict[int, int] = field(default_factory=dict)
    allowed: bool = False
    open_at: float = 0.0
    gate_open: bool = False
    #: Tables of reservations up to this LSN were told of.
    table_told: Lsn = Lsn(0)
    term_start: Lsn = Lsn(0)
    inherited: Lsn = Lsn(0)
    commit_waiters: list[tuple[Lsn, asyncio.Future[None]]] = field(default_factory=list)
    answer_waiters: list[tuple[Lsn, asyncio.Future[None]]] = field(default_factory=list)
    feed: End | None = None
    feed_term: Term = NO_TERM
    heard_at: float | None = None
    #: Promises to primaries: term -> until, and the stamp of the newest ask each was given for.
    promises: dict[Term, float] = field(default_factory=dict)
    granted_for: dict[Term, float] = field(default_factory=dict)
    #: Stamps up to which a term gave back what it asked for.
    given_back: dict[Term, float] = field(default_factory=dict)
    #: Rights from nodes: node_key -> until.
    rights: dict[int, float] = field(default_factory=dict)
    #: The gate was closed by somebody, not by time, at this moment: earlier asks open nothing.
    released: bool = False
    released_at: float = float("-inf")
    #: Closed for the rest of the term, whatever the control side says.
    over: bool = False
    #: The newest term this replica was primary of.
    led: Term = NO_TERM


def age_ms(volume: ModelVolume, lsn: Lsn, now: float) -> int:
    """How long the oldest entry above an LSN has been under way."""
    return next((round(1000 * (now - at)) for found, at in volume.appended if found > lsn), 0)


def acked(volume: ModelVolume, slot: int) -> Lsn:
    peer = volume.peers.get(slot)
    return Lsn(0) if peer is None or peer.rebuilding else peer.acked


async def reached(waiters: list[tuple[Lsn, asyncio.Future[None]]], lsn: Lsn) -> None:
    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    waiters.append((lsn, waiter))
    await waiter


def wake(
    waiters: list[tuple[Lsn, asyncio.Future[None]]], reached: Lsn
) -> list[tuple[Lsn, asyncio.Future[None]]]:
    """Those that still wait."""
    left = []
    for lsn, waiter in waiters:
        if waiter.done():
            continue
        if lsn <= reached:
            waiter.set_result(None)
        else:
            left.append((lsn, waiter))
    return left
