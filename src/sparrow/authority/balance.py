"""Which volume's primary moves to a less loaded node when nothing else is the matter.

A move is a Reassign to a replica of the recorded in_sync with the recorded line as its basis, like every hand-over, so
no rule here is needed for safety. They are against churn: a move costs a pause of about one grant, and until the old
primary has rejoined the volume has one copy less in sync. So a primary moves only between nodes that lead more than
``skew`` volumes more and fewer, one at a time per node and few at a time in all, and never

- while the volume heals, is being replaced, or has another ask on its way,
- within ``SETTLE_S`` of any move of the volume, failovers and hand-overs included,
- to a node that is cordoned, drained or lost, or subscribed less than ``SETTLE_S`` ago,
- within ``SETTLE_S`` of the master's start (it does not remember earlier moves), or ``CALM_S`` of a failover or stall.

Every move takes one from a difference of at least ``skew + 1``, counting what is on its way, so it never pays to move
back. Work: loads are counted as lines are minted, and a round is due only after something changed or while loads
differ; it sorts the nodes and looks at no more than ``LOOKS_MAX`` volumes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from sparrow.authority.builder import Slot, VolumeSnapshot
from sparrow.authority.evidence import progress, unfit_successor
from sparrow.authority.status import serving
from sparrow.authority.types import Line, VolumePhase
from sparrow.base.ids import NodeId, VolumeId

#: Loads that differ by no more than this are even.
SKEW: Final = 1
SETTLE_S: Final = 30.0
CALM_S: Final = 10.0
#: Between two rounds, and between two while loads differ and nothing could be moved.
ROUND_S: Final = 1.0
LOOK_AGAIN_S: Final = 10.0
MOVES_MAX: Final = 8
LOOKS_MAX: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """Where a primary could move for balance; ``target`` None: nowhere. ``text`` says why, for a person."""

    target: Slot | None
    text: str


def chance(
    line: Line,
    snapshot: VolumeSnapshot,
    *,
    load: Callable[[NodeId], int],
    refuses: Callable[[NodeId], str | None],
    skew: int = SKEW,
) -> Chance:
    """The least loaded node that could lead a volume instead of its primary's.

    Args:
        refuses: why a node gets no primary by choice now, None if it may.
    """
    why_not = _unready(line, snapshot)
    if why_not:
        return Chance(target=None, text=why_not)
    here = line.primary_member.node_id
    others = [slot for slot in snapshot.slots if slot.replica_id != line.primary]
    light = [slot for slot in others if load(here) - load(slot.node_id) > skew]
    led = ", ".join(f"{slot.node_id} {load(slot.node_id)}" for slot in others)
    some = "1 volume" if load(here) == 1 else f"{load(here)} volumes"
    loads = f"{here} leads {some}" + (f", {led}" if led else "")
    if not light:
        return Chance(target=None, text=f"even: {loads}")
    spoken = [
        (slot, refuses(slot.node_id) or unfit_successor(slot, snapshot))
        for slot in light
        if slot.replica_id in line.in_sync
    ]
    fit = [slot for slot, against in spoken if against is None]
    if not fit:
        against = "; ".join(f"not to {slot.node_id}, {text}" for slot, text in spoken)
        return Chance(target=None, text=f"{loads}; {against}")
    # The same choice in every run: load, then the longer log, then the id.
    best = min(
        fit,
        key=lambda slot: (
            load(slot.node_id),
            tuple(-part for part in progress(slot)),
            slot.replica_id,
        ),
    )
    return Chance(target=best, text=f"{loads}; {best.replica_id} could lead instead")


def _unready(line: Line, snapshot: VolumeSnapshot) -> str:
    """Why a volume is left alone whatever the loads are; empty if it is not."""
    desired, primary = snapshot.desired, snapshot.slot(line.primary)
    if desired is None or desired.phase is not VolumePhase.ACTIVE or desired.leaving:
        return "left alone: the volume is being changed"
    if primary is None or not serving(line, primary):
        return "left alone: the primary does not serve"
    if {member.replica_id for member in line.members} != set(line.in_sync):
        return "left alone: not every replica is in sync"
    if len(line.in_sync) < line.replication_factor:
        return "left alone: it has fewer replicas than it should"
    if len(line.in_sync) - 1 < line.min_in_sync:
        return "left alone: writes need every replica, and a move takes one out for a moment"
    return ""


class Balancer:
    """Who leads how much, and when and where a round may move something. Bounded by nodes and volumes.

    Args:
        skew: loads that differ by no more are even; 0 moves nothing ever.
    """

    def __init__(self, *, now: float, skew: int = SKEW) -> None:
        assert skew >= 0, "a skew is a number of volumes"
        self.skew = skew
        #: Volumes by their primary's node; those looked at last are last.
        self._led: dict[NodeId, dict[VolumeId, None]] = {}
        #: Difference that asks on their way will make.
        self._shift: dict[NodeId, int] = {}
        self._since: dict[NodeId, float] = {}
        self._passed_over: frozenset[NodeId] = frozenset()
        self._moved_at: dict[VolumeId, float] = {}
        self._moving: dict[VolumeId, tuple[NodeId, NodeId]] = {}
        self._rest_until = now + SETTLE_S
        self.wake_at: float | None = None

    # ---------------------------------------------------------------- news

    def count(self, old: Line | None, new: Line, now: float | None = None) -> None:
        """A line was minted, or loaded (``now`` None)."""
        before = None if old is None or old.retired else old.primary_member.node_id
        after = None if new.retired else new.primary_member.node_id
        if before != after:
            if before is not None:
                self._led[before].pop(new.volume_id, None)
            if after is not None:
                self._led.setdefault(after, {})[new.volume_id] = None
        if now is None:
            return
        if new.retired:
            self._moved_at.pop(new.volume_id, None)
        elif old is None or old.lineage.epoch != new.lineage.epoch:
            self._moved_at[new.volume_id] = now
        self._look(now + ROUND_S)

    def project(self, leaves: NodeId | None, joins: NodeId, sign: int) -> None:
        """Count an ask on its way as if it were minted (+1), or stop doing so (-1)."""
        if leaves is not None:
            self._shift[leaves] = self._shift.get(leaves, 0) - sign
        self._shift[joins] = self._shift.get(joins, 0) + sign

    def moves(self, volume_id: VolumeId, leaves: NodeId, joins: NodeId) -> None:
        """A move was asked for: both nodes take part in no other until it is seen or given up."""
        self._moving[volume_id] = (leaves, joins)

    def arrived(self, node_id: NodeId, now: float) -> None:
        """A node subscribed: for the first time, or again."""
        self._since[node_id] = now
        self._look(now + SETTLE_S)

    def pass_over(self, nodes: frozenset[NodeId], now: float) -> None:
        """Nodes that get nothing by choice, all of them."""
        self._passed_over = nodes
        self._look(now + ROUND_S)

    def rest(self, now: float) -> None:
        """A failover, or a stall of the master: there is more important work."""
        self._rest_until = max(self._rest_until, now + CALM_S)

    # ---------------------------------------------------------------- answers

    def load(self, node_id: NodeId) -> int:
        """Primaries on a node, asks on their way counted."""
        return len(self._led.get(node_id, ())) + self._shift.get(node_id, 0)

    def refuses(self, node_id: NodeId, now: float) -> str | None:
        """Why a node gets no primary by choice now."""
        if node_id in self._passed_over:
            return "which is cordoned, drained or lost"
        since = self._since.get(node_id)
        if since is None:
            return "which did not subscribe yet"
        if now < since + SETTLE_S:
            return f"which subscribed {now - since:.0f} s ago"
        return None

    def rests(self, volume_id: VolumeId, now: float) -> str:
        """Why a volume is not moved yet although it could be; empty when it may."""
        if self.skew == 0:
            return "moving for balance is switched off"
        if now < self._rest_until:
            return f"all volumes rest for {self._rest_until - now:.0f} s"
        moved_at = self._moved_at.get(volume_id)
        if moved_at is not None and now < moved_at + SETTLE_S:
            return f"it moved {now - moved_at:.0f} s ago and rests for {SETTLE_S:.0f} s"
        return ""

    # ---------------------------------------------------------------- rounds

    def round(
        self,
        now: float,
        *,
        line_of: Callable[[VolumeId], Line | None],
        up: Callable[[NodeId], bool],
        on_its_way: Callable[[VolumeId], bool],
    ) -> list[VolumeId]:
        """The volumes to decide on now with a move in mind, at most one for each node that takes part."""
        if self.wake_at is None or now < self.wake_at:
            return []
        self.wake_at = None
        if self.skew == 0:
            return []
        if now < self._rest_until:
            self._look(self._rest_until)
            return []
        self._moved_at = {v: at for v, at in self._moved_at.items() if now < at + SETTLE_S}
        self._moving = {v: pair for v, pair in self._moving.items() if on_its_way(v)}
        takers = {n for n in self._since if self.refuses(n, now) is None and up(n)}
        chosen, differ = self._choose(takers, line_of)
        settling = [since + SETTLE_S for since in self._since.values() if since + SETTLE_S > now]
        if differ:
            settling.append(now + (ROUND_S if chosen or self._moving else LOOK_AGAIN_S))
        if settling:
            # Nodes that subscribed one after the other share a round.
            self._look(max(min(settling), now + ROUND_S))
        return chosen

    def _choose(
        self, takers: set[NodeId], line_of: Callable[[VolumeId], Line | None]
    ) -> tuple[list[VolumeId], bool]:
        """Volumes to move, and whether any loads differ too much."""
        chosen: list[VolumeId] = []
        differ = False
        looks = LOOKS_MAX
        least = min(map(self.load, takers), default=0)
        busy = {node_id for pair in self._moving.values() for node_id in pair}
        for node_id in sorted(self._led, key=lambda one: (-self.load(one), one)):
            if not takers or self.load(node_id) - least <= self.skew:
                break
            differ = True
            if node_id in busy:
                continue
            for volume_id in list(islice(self._led[node_id], looks)):
                looks -= 1
                self._led[node_id][volume_id] = self._led[node_id].pop(volume_id)
                target = self._target(node_id, line_of(volume_id), takers - busy)
                if target is not None and volume_id not in self._moved_at:
                    chosen.append(volume_id)
                    busy |= {node_id, target}
                    break
            if looks <= 0 or len(chosen) + len(self._moving) >= MOVES_MAX:
                break
        return chosen, differ

    def _target(self, here: NodeId, line: Line | None, takers: set[NodeId]) -> NodeId | None:
        """The least loaded node a volume could move to, as far as its line says."""
        if line is None or line.retired:
            return None
        nodes = {m.node_id for m in line.members if m.replica_id in line.in_sync} & takers - {here}
        best = min(nodes, key=lambda one: (self.load(one), one), default=None)
        return best if best and self.load(here) - self.load(best) > self.skew else None

    def _look(self, at: float) -> None:
        if self.wake_at is None or at < self.wake_at:
            self.wake_at = at
