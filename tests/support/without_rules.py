"""Rules of the authority and of nodes, each to be taken away for a while: the schedules show what then goes wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority import builder, decide, evidence, mint
from sparrow.authority import loop as authority_loop
from sparrow.authority.delivery import Delivery
from sparrow.authority.effects import Instruction
from sparrow.authority.types import Ask, AssignmentFact, Line
from sparrow.base.constants import GRANT_S
from sparrow.dataplane.model.plane import ModelDataPlane
from sparrow.node import effects as fx
from sparrow.node.opening import fencing, machine
from sparrow.node.opening.machine import Opening
from sparrow.node.opening.state import Phase
from sparrow.node.pace import Pace
from sparrow.node.peers.machine import Peers
from sparrow.node.peers.state import Fed
from sparrow.node.primacy import Primacy
from sparrow.node.relief import Relief
from sparrow.node.replicas import Replicas
from sparrow.node.volume import Volume
from sparrow.store.memory import MemoryDisk
from sparrow.store.rows import line_row


def without_pending_in_needed(patch: pytest.MonkeyPatch) -> None:
    """S3 (1): a pending peer's grant is not needed."""
    patch.setattr(Peers, "needed", property(lambda self: _known(self, self.line.in_sync)))


def without_durable_pending_and_the_masters_word(patch: pytest.MonkeyPatch) -> None:
    """S3 (2), (3): pending is memory, and what the files say is enough to open."""

    async def record(self: Volume, pending: Any, _epoch: int) -> None:
        self._recorded_pending = pending

    opened = Replicas.open_all

    async def open_all(self: Replicas) -> None:
        await opened(self)
        for volume in self:
            if volume.known_line is not None:
                volume._around.log.info("opened by its files")
                await volume._act_on(volume.known_line, may_open=True)

    patch.setattr(Volume, "record_pending", record)
    patch.setattr(Replicas, "open_all", open_all)


def with_an_old_fact_first(patch: pytest.MonkeyPatch) -> None:
    """S4: a stream begins with what the slot was told last."""
    news = Delivery._news
    before: dict[Any, AssignmentFact] = {}

    def old_first(
        self: Delivery, volume_id: Any, node_id: Any, stream: Any
    ) -> Iterator[Instruction]:
        fresh = not stream.facts
        for one in news(self, volume_id, node_id, stream):
            held = before.get((volume_id, node_id))
            if isinstance(one, AssignmentFact):
                before[volume_id, node_id] = one
                if fresh and held is not None and held.line.lineage < one.line.lineage:
                    yield held
                    continue
            yield one

    patch.setattr(Delivery, "_news", old_first)


def without_basis(patch: pytest.MonkeyPatch) -> None:
    """S5: what an ask was decided on is not compared, nor who asks."""
    patch.setattr(mint, "_compare_basis", lambda _old, _ask: None)
    patch.setattr(mint, "_require_primary", lambda _old, _ask: None)


def without_basis_and_in_sync(patch: pytest.MonkeyPatch) -> None:
    """S5 (a): and any member may become primary."""
    without_basis(patch)
    _anybody(patch)


def with_a_cancel_that_mints_nothing(patch: pytest.MonkeyPatch) -> None:
    """S5 (c): a shrink of who is not in sync changes nothing."""
    shrink = mint._shrink

    def lazy(old: Line, ask: Ask, *rest: Any) -> Line | None:
        return shrink(old, ask, *rest) if ask.replica_id in old.in_sync else None

    patch.setattr(mint, "_shrink", lazy)


def without_hold_off(patch: pytest.MonkeyPatch) -> None:
    """S6: a process that starts has promised nothing."""
    start = ModelDataPlane.start

    def at_once(self: ModelDataPlane, on_event: Any) -> None:
        start(self, on_event)
        self._started_at -= 2 * GRANT_S

    patch.setattr(ModelDataPlane, "start", at_once)


def with_grants_given_back_by_anybody(patch: pytest.MonkeyPatch) -> None:
    """S12: whoever answers a fence speaks for the old primary."""
    note, begin = Opening._note_promise, ModelDataPlane._promise

    def anybody(self: Opening, replica: Any, report: Any, now: float) -> None:
        note(self, replica, replace(report, closed=report.promised_to), now)

    def forgets(self: ModelDataPlane, volume_id: Any, volume: Any, *rest: Any) -> None:
        begin(self, volume_id, volume, *rest)
        volume.promises.clear()

    patch.setattr(Opening, "_note_promise", anybody)
    patch.setattr(ModelDataPlane, "_promise", forgets)


def with_grants_that_are_never_given_back(patch: pytest.MonkeyPatch) -> None:
    """S12: a promise runs its time whatever its primary says."""
    patch.setattr(ModelDataPlane, "_take_release", lambda _self, _stamp, _terms: None)
    patch.setattr(
        Opening,
        "_wait_s",
        lambda self, now: max((p.until - now for p in self.promises.values()), default=0.0),
    )


def with_own_promises_only(patch: pytest.MonkeyPatch) -> None:
    """S14 (a): a new primary waits for what it promised itself."""
    note = Opening._note_promise

    def own(self: Opening, replica: Any, report: Any, now: float) -> None:
        if replica == self.replica:
            note(self, replica, report, now)

    patch.setattr(Opening, "_note_promise", own)


def with_a_majority_of_those_left(patch: pytest.MonkeyPatch) -> None:
    """S14 (b): one answer, the opener's own, is enough."""
    patch.setattr(fencing, "answers_needed", lambda _line: 1)
    patch.setattr(Opening, "_choose", _goes_on_alone)


def _goes_on_alone(self: Opening, now: float) -> None:
    self.phase = Phase.JOINING
    for follower in self.followers.values():
        follower.join_at = now


def without_proof_before_a_shrink(patch: pytest.MonkeyPatch) -> None:
    """S14 (e): who is lost is asked out at once."""
    patch.setattr("sparrow.node.peers.base.commits_on_some", lambda _line: False)
    patch.setattr("sparrow.node.peers.leaving.commits_on_some", lambda _line: False)
    patch.setattr(
        Peers,
        "one_of",
        property(lambda self: tuple(r for r in self.needed if len(self.line.in_sync) > 2)),
    )


def with_commits_as_early_as_answers(patch: pytest.MonkeyPatch) -> None:
    """S15: what is answered counts as committed, and is applied."""
    advance = ModelDataPlane._advance

    def early(self: ModelDataPlane, volume_id: Any, volume: Any) -> None:
        advance(self, volume_id, volume)
        if volume.answered > volume.commit:
            self._commit(volume_id, volume, volume.answered)

    patch.setattr(ModelDataPlane, "_advance", early)


def with_slots_instead_of_files(patch: pytest.MonkeyPatch) -> None:
    """S17: whatever is reported in a slot is what the line means, however little it holds."""
    member_slots = builder._member_slots

    def by_slot(*args: Any) -> Any:
        slots, orphans = member_slots(*args)
        return tuple(
            replace(one, fact=one.fact or one.stranger, stranger=None) for one in slots
        ), orphans

    patch.setattr(builder, "_member_slots", by_slot)
    patch.setattr(
        decide, "unfit_successor", lambda slot, _snapshot, **how: evidence.unfit(slot, **how)
    )


def with_the_row_before(patch: pytest.MonkeyPatch) -> None:
    """S18 (a): a damaged row is replaced by the one that was kept beside it."""
    from sparrow.authority.record import decode_line

    def repair(self: MemoryDisk, volume_id: Any) -> None:
        self.lines[volume_id] = line_row(decode_line(self.previous[volume_id]))

    patch.setattr(MemoryDisk, "damage_line", repair)


def with_anybody_promoted(patch: pytest.MonkeyPatch) -> None:
    """S25: when the holders are gone the next best takes over."""
    _anybody(patch)
    patch.setattr(
        decide, "_passed_over", lambda slot, _line, _snapshot, **how: evidence.unfit(slot, **how)
    )
    patch.setattr(
        builder,
        "_line_coverage",
        lambda _line, snapshot, _grace: builder.Supported(snapshot=snapshot),
    )


def with_links_reset_by_every_line(patch: pytest.MonkeyPatch) -> None:
    """L2: a newer endpoint version resets every peer."""
    changed = Peers._line_changed

    def reset(self: Peers, line: Line, now: float) -> None:
        changed(self, line, now)
        for peer in self.peers.values():
            self._out.append(fx.DropPeer(replica=peer.replica))
            self._away(peer, "a newer line", now)

    patch.setattr(Peers, "_line_changed", reset)


def with_pending_whoever_is_away(patch: pytest.MonkeyPatch) -> None:
    """L12: a peer is made pending also when nobody could answer the ask for it."""
    grow = Peers._grow

    def anyhow(self: Peers, peer: Fed, now: float) -> None:
        live, self.control_live = self.control_live, True
        grow(self, peer, now)
        self.control_live = live

    patch.setattr(Peers, "_grow", anyhow)


def with_a_long_fence_deadline(patch: pytest.MonkeyPatch) -> None:
    """L3: an unanswered fence is waited for."""
    for module in (fencing, machine):
        patch.setattr(module, "FENCE_DEADLINE_S", 15.0)


def without_hand_over(patch: pytest.MonkeyPatch) -> None:
    """L5: the shrink is minted whatever is left."""
    patch.setattr(
        authority_loop.AuthorityLoop, "_another_can_take_over", lambda _self, _line, _leaving: False
    )


def with_claims_without_epoch(patch: pytest.MonkeyPatch) -> None:
    """L11: two fresh claims are a conflict, whatever their epochs."""

    def conflict(snapshot: Any) -> Any:
        claims = [
            slot
            for slot in snapshot.slots
            if slot.covered and slot.fact and slot.fact.role_claim is builder.RoleClaim.PRIMARY
        ]
        if len(claims) < 2:
            return None
        offenders = tuple(slot.node_id for slot in claims)
        reason = builder.Reason.CONFLICTING_PRIMARY_CLAIM
        return builder._unsupported(snapshot.volume_id, snapshot.built_at, reason, offenders, "two")

    patch.setattr(builder, "_conflict", conflict)


def with_patience(patch: pytest.MonkeyPatch) -> None:
    """L6: nobody is ever slow."""
    patch.setattr(Pace, "slow", lambda _self, _now: False)


def without_a_calm(patch: pytest.MonkeyPatch) -> None:
    """L6: who has caught up is grown at once."""
    patch.setattr(Pace, "may_return", lambda _self, _now: True)


def without_a_word_of_the_own_disk(patch: pytest.MonkeyPatch) -> None:
    """L9: a slow disk is nobody's business."""
    patch.setattr(Volume, "withdrawn", property(lambda _self: False))


def with_wishes_whoever_is_quicker(patch: pytest.MonkeyPatch) -> None:
    """L9: a slow disk is reason enough to hand over."""
    patch.setattr(Primacy, "quicker", property(lambda self: self.opening.line.in_sync))


def without_a_word_of_who_was_slow(patch: pytest.MonkeyPatch) -> None:
    """L9: who is relieved may be handed the volume again at once."""
    patch.setattr(Relief, "was_slow", lambda _self, _now: False)


def with_wishes_that_bind(patch: pytest.MonkeyPatch) -> None:
    """L9: who would rather not lead never does, whoever else is left."""

    def unfit(slot: Any, *, despite_wishes: bool = False) -> str | None:
        return fit(slot)

    fit = evidence.unfit
    patch.setattr(evidence, "unfit", unfit)


def with_expiry_alone(patch: pytest.MonkeyPatch) -> None:
    """L13: silence towards the master is death."""
    patch.setattr(evidence, "EXPIRY_ALONE_S", 0.0)


def _anybody(patch: pytest.MonkeyPatch) -> None:
    reassign = mint._reassign

    def anybody(old: Line, ask: Ask, generation: int) -> Line:
        everyone = tuple(sorted(member.replica_id for member in old.members))
        made = reassign(replace(old, in_sync=everyone), ask, generation)
        return replace(made, in_sync=(ask.replica_id,))

    patch.setattr(mint, "_reassign", anybody)
    patch.setattr("sparrow.authority.invariants._check_new_epoch", lambda _old, _new: None)


def _known(peers: Peers, replicas: Any) -> Any:
    return tuple(sorted(set(replicas) & peers.peers.keys()))
