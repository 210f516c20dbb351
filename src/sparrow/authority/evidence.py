"""When a primary counts as lost, and which replica may follow it.

A wrong guess costs a hand-over, never safety (docs/ARCHITECTURE.md, "Grants and the gate"), so early evidence is acted
on; what these rules prevent is a storm of hand-overs after a stall that hit nobody.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from sparrow.authority.builder import Slot, VolumeSnapshot
from sparrow.authority.quorum import answers_needed, commits_on_some
from sparrow.authority.types import Line, ReplicaState
from sparrow.base.constants import EXPIRY_ALONE_S, FRESHNESS_S, PEER_SILENCE_S

#: A node whose stream closed may subscribe again within this and nothing happens.
RESUBSCRIBE_S = 0.1
#: A peer that heard the primary more recently than this before its report does not speak of silence.
PEER_HEARD_S = 0.3
#: Difference between a peer's words and the master's clock that means nothing: the report's own way.
REPORT_SKEW_S = 0.05
#: A peer's word that it heard the primary after the stream closed stands until its next report is overdue.
REPORT_STANDS_S = 0.75


class Standing(Enum):
    ALIVE = "alive"
    SUSPECTED = "suspected"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """How the primary stands. ``look_again_at``: when time alone may change the verdict."""

    standing: Standing
    cause: str
    look_again_at: float | None = None


def judge_primary(
    line: Line, snapshot: VolumeSnapshot, *, booted_at: float, hold_until: float
) -> Verdict:
    """Judge the primary of a live line by its stream, its heartbeats and what its in-sync peers say.

    Args:
        booted_at: a node not heard in this boot of the master counts as heard then.
        hold_until: the master itself stalled; expiry means nothing before this.
    """
    now = snapshot.built_at
    slot = snapshot.slot(line.primary)
    assert slot is not None, "a line's primary is one of its members"
    sight = slot.sight
    peers = _in_sync_peers(line, snapshot)
    if sight.stream_closed_at is not None and not sight.spoke_after_close:
        return _judge_closed(sight.node_id, sight.stream_closed_at, peers, now)
    if sight.fresh:
        return Verdict(standing=Standing.ALIVE, cause="")
    heard_at = booted_at if sight.heard_at is None else sight.heard_at
    return _judge_expired(sight.node_id, heard_at, peers, now, hold_until)


def _judge_closed(node_id: str, closed_at: float, peers: list[Slot], now: float) -> Verdict:
    if now < closed_at + RESUBSCRIBE_S:
        return Verdict(
            standing=Standing.SUSPECTED,
            cause=f"the control stream of {node_id} closed",
            look_again_at=closed_at + RESUBSCRIBE_S,
        )
    until = [stands for peer in peers if (stands := _heard_after(peer, closed_at, now)) is not None]
    if until:
        return Verdict(
            standing=Standing.SUSPECTED,
            cause=f"the control stream of {node_id} closed, but a peer still hears it",
            look_again_at=min(until),
        )
    return Verdict(standing=Standing.LOST, cause=f"the control stream of {node_id} closed")


def _heard_after(peer: Slot, closed_at: float, now: float) -> float | None:
    """Until when a peer's word stands that it heard the primary after its stream closed; None if it says no such."""
    fact, reported_at = peer.fact, peer.sight.heard_at
    if not peer.sight.up or fact is None or reported_at is None or fact.primary_silent_ms is None:
        return None
    silent = fact.primary_silent_ms / 1000
    stands_until = reported_at + REPORT_STANDS_S
    heard_primary_at = reported_at - silent
    if silent >= PEER_HEARD_S or heard_primary_at <= closed_at + REPORT_SKEW_S:
        return None
    return stands_until if now < stands_until else None


def _judge_expired(
    node_id: str, heard_at: float, peers: list[Slot], now: float, hold_until: float
) -> Verdict:
    cause = f"{node_id} was last heard {now - heard_at:.1f} s ago"
    expired_at = heard_at + FRESHNESS_S
    if now <= expired_at or now < hold_until:
        again = max(math.nextafter(expired_at, math.inf), hold_until)
        return Verdict(standing=Standing.SUSPECTED, cause=cause, look_again_at=again)
    reporting = [peer for peer in peers if peer.sight.up and peer.fact is not None]
    if reporting and all(_silent(peer) for peer in reporting):
        return Verdict(standing=Standing.LOST, cause=f"{cause}, and its in-sync peers hear nothing")
    alone_at = heard_at + EXPIRY_ALONE_S
    if now >= alone_at:
        return Verdict(standing=Standing.LOST, cause=cause)
    return Verdict(
        standing=Standing.SUSPECTED,
        cause=f"{cause}, but no in-sync peer reports silence",
        look_again_at=alone_at,
    )


def _silent(peer: Slot) -> bool:
    fact = peer.fact
    return (
        fact is not None
        and fact.primary_silent_ms is not None
        and fact.primary_silent_ms >= PEER_SILENCE_S * 1000
    )


def _in_sync_peers(line: Line, snapshot: VolumeSnapshot) -> list[Slot]:
    """In-sync peers that follow this epoch: what others hear or miss is another primary."""
    peers = set(line.in_sync) - {line.primary}
    return [
        slot
        for slot in snapshot.slots
        if slot.replica_id in peers
        and slot.fact is not None
        and slot.fact.lineage is not None
        and slot.fact.lineage.epoch == line.lineage.epoch
    ]


def unfit(slot: Slot, *, despite_wishes: bool = False) -> str | None:
    """Why a replica cannot serve as primary now, whatever the line says; None if it can.

    Args:
        despite_wishes: pass over what the node merely asks for: to be relieved, to take no primaries.
    """
    fact, sight = slot.fact, slot.sight
    if sight.heard_at is None:
        return f"{slot.node_id} was never heard"
    if slot.stranger is not None and slot.stranger.unreadable and fact is None:
        return "its files cannot be opened"
    if slot.stranger is not None and fact is None:
        return f"other files are in its place ({slot.stranger.uuid})"
    if not sight.fresh:
        return f"{slot.node_id} is not heard any more"
    if not sight.up:
        return f"the control stream of {slot.node_id} closed"
    if fact is None:
        return f"{slot.node_id} does not report it"
    checks = (
        (not sight.reachable, f"{slot.node_id} says it is not reachable"),
        (fact.disk_failed, "its disk failed"),
        (fact.state is not ReplicaState.CLEAN, f"its state is {fact.state}"),
        (fact.suspect, "its superblock or log needs a peer first"),
        (not fact.ready_for_primary, "it is not ready"),
        (not fact.data_addr or not fact.ctrl_addr, "it reports no address"),
    )
    wishes = (
        (fact.withdrawn, "it asked to be relieved: it is slow, or was lately"),
        (not fact.eligible, "it is not eligible"),
        (not sight.eligible, f"{slot.node_id} takes no primaries"),
    )
    asked = checks if despite_wishes else (*checks, *wishes)
    return next((why for holds, why in asked if holds), None)


def unfit_successor(
    slot: Slot, snapshot: VolumeSnapshot, *, despite_wishes: bool = False
) -> str | None:
    """Why a replica cannot take the volume over; None if it can. Asked of in-sync and eligible replicas only."""
    why = unfit(slot, despite_wishes=despite_wishes)
    if why is not None:
        return why
    line = snapshot.live_line
    if line is not None and commits_on_some(line):
        return _unfit_opener(line, snapshot)
    if _reached(slot) < snapshot.highest_commit:
        return f"it reports LSN {_reached(slot)}, and {snapshot.highest_commit} was committed"
    return None


def can_take_over(line: Line, snapshot: VolumeSnapshot) -> bool:
    """Whether a replica that does not hear the primary could serve in its place, with enough others beside it."""
    others = [slot for slot in snapshot.slots if slot.replica_id != line.primary]
    fit = [slot for slot in others if unfit(slot, despite_wishes=True) is None]
    deaf = [
        slot
        for slot in fit
        if slot.replica_id in line.in_sync
        and unfit_successor(slot, snapshot, despite_wishes=True) is None
        and slot.fact is not None
        and (slot.fact.primary_silent_ms or 0) >= PEER_HEARD_S * 1000
    ]
    return bool(deaf) and len(fit) >= line.min_in_sync


def _unfit_opener(line: Line, snapshot: VolumeSnapshot) -> str | None:
    """Where an entry commits on some, the opener adopts what it lacks: enough others must be there, and have it."""
    there = [
        slot
        for slot in snapshot.slots
        if slot.replica_id in line.in_sync and unfit(slot, despite_wishes=True) is None
    ]
    wanted = answers_needed(line)
    if len(there) < wanted:
        return f"{len(there)} of the {wanted} replicas that must answer an opening can be reached"
    reached = max(map(_reached, there))
    if reached < snapshot.highest_commit:
        return f"those in reach report LSN {reached} at most, and {snapshot.highest_commit} was committed"
    return None


def _reached(slot: Slot) -> int:
    fact = slot.fact
    assert fact is not None, "a fit replica is reported"
    return min(fact.last_lsn, fact.durable_lsn)


def progress(slot: Slot) -> tuple[int, int, int]:
    """How far a replica's log reaches, comparable: term, then LSN."""
    fact = slot.fact
    if fact is None:
        return (0, 0, 0)
    term = fact.last_term
    return (term.epoch if term else 0, term.start if term else 0, fact.last_lsn)
