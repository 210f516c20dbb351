"""Histories that break a naive authority, played on whole simulated clusters; each again with its rule taken away.

A schedule either ends well or raises: ``Violation`` when something unsafe happened, ``AssertionError`` when what must
happen did not. Names are those of docs/claims.md.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sparrow.authority.types import AckPolicy, Ask, Intent
from sparrow.base.constants import GRANT_S
from sparrow.node.pace import CALM_S
from sparrow.rpc.messages import AskIntent
from tests.support.stage import Stage, V, ends_badly, stage
from tests.support.without_rules import (
    with_a_cancel_that_mints_nothing,
    with_a_long_fence_deadline,
    with_a_majority_of_those_left,
    with_an_old_fact_first,
    with_anybody_promoted,
    with_claims_without_epoch,
    with_commits_as_early_as_answers,
    with_expiry_alone,
    with_grants_given_back_by_anybody,
    with_grants_that_are_never_given_back,
    with_links_reset_by_every_line,
    with_own_promises_only,
    with_patience,
    with_pending_whoever_is_away,
    with_slots_instead_of_files,
    with_the_row_before,
    with_wishes_that_bind,
    with_wishes_whoever_is_quicker,
    without_a_calm,
    without_a_word_of_the_own_disk,
    without_a_word_of_who_was_slow,
    without_basis,
    without_basis_and_in_sync,
    without_durable_pending_and_the_masters_word,
    without_hand_over,
    without_hold_off,
    without_pending_in_needed,
    without_proof_before_a_shrink,
)

# ---------------------------------------------------------------- S3: {me} against a line that moved on


def s3a_grown_without_hearing_of_it(s: Stage) -> None:
    """a asks to grow b in, the answer is lost, a is cut off, b takes over: a must not go on by itself."""
    s.to_one()
    s.cut("m>a")
    s.world.start_node(s.b)
    s.until(lambda: s.in_sync == {s.a, s.b})
    s.cut("a-b", "a>m")
    s.until(lambda: s.line.primary_member.node_id == s.b, seconds=20)
    s.until(lambda: s.serves(s.b))
    s.run(5)
    assert not s.serves(s.a)


def s3b_restarts_alone_with_an_old_line(s: Stage) -> None:
    """The same, and a crashes and starts again without reaching anybody: its files say {a}."""
    s.to_one()
    s.cut("m>a")
    s.world.start_node(s.b)
    s.until(lambda: s.in_sync == {s.a, s.b})
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b))
    s.cut("a-b", "a-m")
    s.world.start_node(s.a)
    s.run(8)
    assert s.serves(s.b)


# ---------------------------------------------------------------- S4: the first fact of a stream


def s4_the_first_fact_is_the_newest(s: Stage) -> None:
    """a is replaced while it is down; what it hears first when it is back is that."""
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b))
    s.world.start_node(s.a)
    s.until(s.world.all_healthy)


# ---------------------------------------------------------------- S5: asks that come late


def s5a_a_queued_reassign(s: Stage) -> None:
    """The controller decided for b on {a,b}; b is shrunk out and a writes alone before that is applied."""
    line = s.line
    to_b = next(m.replica_id for m in line.members if m.node_id == s.b)
    queued = Ask(
        intent=Intent.REASSIGN, volume_id=V, replica_id=to_b, basis=line.lineage, reason="queued"
    )
    s.to_one()
    s.publish(queued)
    s.world.checkers.touched()
    s.run(1)


def s5b_a_grow_after_the_failover(s: Stage) -> None:
    """a's ask for c is under way while a dies and b takes over and writes alone; then it comes."""
    s.world.kill_node(s.c)
    s.until(lambda: s.in_sync == {s.a, s.b})
    lost = s.lose_asks(s.a, AskIntent.GROW_IN_SYNC)
    s.world.start_node(s.c)
    s.until(lambda: bool(lost))
    s.world.kill_node(s.c)
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b) and s.line.lineage.epoch == 2)
    before = s.acked
    s.until(lambda: s.acked > before + 3)
    s.arrives(lost[0], s.a)
    s.world.checkers.touched()
    s.run(0.5)


def s5c_a_cancel_always_mints(s: Stage) -> None:
    """a's Grow of b is lost on the way, b is lost, a asks b out, writes alone; then the Grow comes."""
    s.to_one()
    lost = s.lose_asks(s.a, AskIntent.GROW_IN_SYNC)
    s.world.start_node(s.b)
    s.until(lambda: bool(lost))
    basis = s.line.lineage
    s.world.kill_node(s.b)
    s.until(lambda: s.line.lineage > basis)
    before = s.acked
    s.until(lambda: s.acked > before + 3)
    s.arrives(lost[0], s.a)
    s.world.checkers.touched()
    s.run(0.5)
    assert s.in_sync == {s.a}


# ---------------------------------------------------------------- S6: a promise is forgotten by a restart


def s6_a_granter_restarts_and_takes_over(s: Stage) -> None:
    """b granted a, dies, is back at once and named primary; a is cut off and serves on what b promised before."""
    s.cut("a-m")
    s.world.kill_node(s.b)
    s.world.start_node(s.b)
    s.cut("a-b")
    s.move(s.b)
    s.until(lambda: s.serves(s.b))
    s.run(1)


# ---------------------------------------------------------------- S12: what is given back, and by whom


def s12_a_primary_that_gives_nothing_back_is_waited_for(s: Stage) -> None:
    """a is cut off and b is named at once: a serves as long as its grants run, so b must not."""
    s.cut("a-b", "a-c", "a-m")
    s.move(s.b)
    s.until(lambda: s.serves(s.b))
    s.run(1)


def s12_a_primary_that_gives_back_is_not(s: Stage) -> None:
    """The same with a reachable: b serves long before a grant has run out."""
    s.move(s.b)
    assert s.until(lambda: s.serves(s.b)) < GRANT_S / 2
    s.run(1)


# ---------------------------------------------------------------- S14, S15: policies


def s14a_the_grant_of_another_is_waited_for(s: Stage) -> None:
    """a serves with b's grant alone; c, which granted nothing, takes over and must wait for what b promised."""
    s.cut("a-c", "a-m")
    s.run(1.5)
    assert s.serves(s.a), "one grant is enough"
    s.cut("a-b")
    s.move(s.c)
    s.until(lambda: s.serves(s.c))
    s.run(1)


def s14b_any_member_may_open(s: Stage) -> None:
    """a and c commit what b does not hear of; a dies, b is named and goes on: what it lacks it takes from c."""
    s.cut("a-b")
    before = s.acked
    s.until(lambda: s.acked > before + 2)
    s.world.kill_node(s.a)
    s.move(s.b)
    s.until(lambda: s.serves(s.b) or s.serves(s.c))
    s.world.start_node(s.a)
    s.until(s.world.all_healthy)


def s14e_a_shrink_before_the_others_have_everything(s: Stage) -> None:
    """b stands still, a and c commit, c dies: c may not leave before b has what only a and c had."""
    s.node(s.b).process.stop()
    before = s.acked
    s.until(lambda: s.acked > before + 3)
    s.world.kill_node(s.c)
    s.run(0.5)
    s.node(s.b).process.go_on()
    s.until(lambda: s.in_sync == {s.a, s.b})
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b))


def s15_what_was_answered_early_was_not_applied(s: Stage) -> None:
    """a answers alone for a moment, then dies; b goes on without that, and a follows with its end cut off."""
    s.cut("a-b")
    before = s.acked
    s.until(lambda: s.acked > before + 3)
    s.world.kill_node(s.a)
    s.open("a-b")
    s.until(lambda: s.serves(s.b))
    s.world.start_node(s.a)
    s.until(s.world.all_healthy)


# ---------------------------------------------------------------- S17, S18, S25: what may never be promoted


def s17_another_disk_in_the_place_of_an_in_sync_one(s: Stage) -> None:
    """b's disk is replaced in the moment in which a dies: nobody may serve until a is back."""
    s.world.kill_node(s.a)
    s.world.wipe_node(s.b)
    s.world.start_node(s.b)
    s.run(15)
    assert s.line.primary_member.node_id == s.a
    assert "unavailable" in s.cause
    s.world.start_node(s.a)
    s.until(s.world.all_healthy, seconds=30)


def s18a_a_damaged_row_is_not_replaced_by_the_one_before(s: Stage) -> None:
    """{a} is damaged, {a,b} is kept beside it: b has not what a acknowledged alone."""
    s.to_one()
    s.world.kill_master()
    s.world.disk.damage_line(V)
    s.world.start_master()
    s.world.start_node(s.b)
    s.run(1)
    s.world.kill_node(s.a)
    s.run(15)
    assert s.line.primary_member.node_id == s.a
    assert "RecordQuarantined" in s.cause


def s25_the_only_holder_is_cut_off_and_serves_on(s: Stage) -> None:
    """{a} is cut off alive: whoever is made primary beside it makes two."""
    s.to_one()
    s.cut("a-m", "a-b")
    s.world.start_node(s.b)
    s.run(20)
    assert s.serves(s.a)
    assert "unavailable" in s.cause


# ---------------------------------------------------------------- liveness


def l2_a_change_of_one_peer_leaves_the_others_alone(s: Stage) -> None:
    """c goes and comes back: b's link and a's term go on."""
    s.forget()
    s.world.kill_node(s.c)
    s.until(lambda: s.in_sync == {s.a, s.b})
    s.world.start_node(s.c)
    s.until(s.world.all_healthy)
    to_b = next(m.replica_id for m in s.line.members if m.node_id == s.b)
    assert s.heard("peer.lost", replica=to_b) == 0
    assert s.line.lineage.epoch == 1


def l3_a_dead_peer_does_not_hold_up_an_opening(s: Stage) -> None:
    """a and c die together; b asks c out after half a second and serves within three."""
    s.world.kill_node(s.a)
    s.world.kill_node(s.c, silently=True)
    took = s.until(lambda: s.serves(s.b), seconds=20)
    assert took < 3.5


def l5_a_primary_that_reaches_only_the_master_hands_over(s: Stage) -> None:
    s.forget()
    s.cut("a-b", "a-c")
    alone = s.line.primary
    s.until(lambda: s.serves(s.b) or s.serves(s.c), seconds=10)
    before = s.acked
    s.until(lambda: s.acked > before + 3)
    assert not any(
        "line.minted" in one and one.endswith(f"in_sync={alone}") for one in s.world.events
    )


# ---------------------------------------------------------------- L6, L9: slow, not dead


def l6_a_slow_peer_leaves_and_stays_out_for_a_while(s: Stage) -> None:
    """c's disk takes more than a second for every write: it leaves, and comes back long after it is well."""
    s.node(s.c).dataplane.disk.delay_s = 1.3
    s.until(lambda: s.in_sync == {s.a, s.b})
    before = s.acked
    s.until(lambda: s.acked > before + 20)
    s.node(s.c).dataplane.disk.delay_s = 0.0
    assert s.until(s.world.all_healthy, seconds=40) > CALM_S - 1


def l6_a_slow_peer_that_flaps(s: Stage) -> None:
    """The same; and it is not taken in and out again at every turn meanwhile."""
    l6_a_slow_peer_leaves_and_stays_out_for_a_while(s)


def l9_a_primary_whose_own_disk_hangs_hands_over(s: Stage) -> None:
    """a's log takes nothing more, its network is fine and grants flow: nobody but a can know."""
    s.node(s.a).dataplane.disk.hung = True
    s.until(lambda: s.serves(s.b) or s.serves(s.c), seconds=6)
    before = s.acked
    s.until(lambda: s.acked > before + 3)


def l9_where_every_disk_is_slow_nobody_hands_over(s: Stage) -> None:
    """Each write of each log takes more than a second: no replica is better, and clients are served all the time."""
    for name in s.world.names:
        s.node(name).dataplane.disk.delay_s = 1.3
    before = s.acked
    s.run(60)
    assert s.acked > before + 20
    assert s.line.lineage.epoch == 1
    # One that hangs is left all the same.
    s.node(s.a).dataplane.disk.hung = True
    s.until(lambda: s.serves(s.b) or s.serves(s.c), seconds=20)


def l9_a_disk_that_is_slow_whenever_it_leads_is_left_once(s: Stage) -> None:
    """As where clients read: the disk of whoever serves them has more to do than the others'."""
    before = s.acked
    for _ in range(500):
        for name in s.world.names:
            leads = name == s.line.primary_member.node_id
            s.node(name).dataplane.disk.delay_s = 1.3 if leads else 0.0
        s.run(0.1)
    assert s.acked > before + 20
    assert s.line.lineage.epoch == 2


def l9_who_was_slow_is_better_than_nobody(s: Stage) -> None:
    """a was relieved a moment ago; then the disk of b, which leads now, takes nothing more."""
    s.node(s.a).dataplane.disk.delay_s = 1.3
    s.until(lambda: s.serves(s.b))
    s.node(s.a).dataplane.disk.delay_s = 0.0
    s.until(s.world.all_healthy, seconds=40)
    s.node(s.b).dataplane.disk.hung = True
    s.until(lambda: s.serves(s.a), seconds=20)
    before = s.acked
    s.until(lambda: s.acked > before + 3)


def l11_an_old_primary_that_still_claims_blocks_nothing(s: Stage) -> None:
    """a is stopped, replaced, continued where nobody can tell it: its claim is of another epoch."""
    s.node(s.a).process.stop()
    # At once: what was sent to a process that stands still reaches it when it goes on.
    s.cut("a-b", "a-c", "m>a")
    s.until(lambda: s.serves(s.b) or s.serves(s.c), seconds=20)
    s.claims_primary(s.a)
    s.forget()
    s.node(s.a).process.go_on()
    s.run(3)
    assert s.heard("volume.unsupported") == 0


def l12_nobody_is_made_pending_while_the_master_is_away(s: Stage) -> None:
    """b has caught up and the master is away; b dies once more. a, alone in the set, goes on all the time."""
    s.world.kill_node(s.b)
    s.until(lambda: s.in_sync == {s.a})
    s.world.kill_master()
    s.run(3)
    s.world.start_node(s.b)
    s.run(5)
    s.world.kill_node(s.b)
    before = s.acked
    s.run(3)
    assert s.acked > before + 10
    s.world.start_node(s.b)
    s.world.start_master()
    s.until(s.world.all_healthy, seconds=60)


def l13_silence_towards_the_master_alone_moves_nothing(s: Stage) -> None:
    """a's heartbeats stop, its peers hear it: five seconds of that are no failover."""
    s.cut("a>m")
    s.run(5)
    s.open("a>m")
    s.until(s.world.all_healthy)
    assert s.line.lineage.epoch == 1


SCHEDULES: dict[Callable[[Stage], None], tuple[int, int, Callable[[pytest.MonkeyPatch], None]]] = {
    s3a_grown_without_hearing_of_it: (2, 1, without_pending_in_needed),
    s3b_restarts_alone_with_an_old_line: (2, 1, without_durable_pending_and_the_masters_word),
    s4_the_first_fact_is_the_newest: (2, 1, with_an_old_fact_first),
    s5a_a_queued_reassign: (2, 1, without_basis_and_in_sync),
    s5b_a_grow_after_the_failover: (3, 1, without_basis),
    s5c_a_cancel_always_mints: (2, 1, with_a_cancel_that_mints_nothing),
    s6_a_granter_restarts_and_takes_over: (2, 1, without_hold_off),
    s12_a_primary_that_gives_nothing_back_is_waited_for: (3, 2, with_grants_given_back_by_anybody),
    s12_a_primary_that_gives_back_is_not: (3, 2, with_grants_that_are_never_given_back),
    s14a_the_grant_of_another_is_waited_for: (3, 2, with_own_promises_only),
    s14b_any_member_may_open: (3, 2, with_a_majority_of_those_left),
    s14e_a_shrink_before_the_others_have_everything: (3, 2, without_proof_before_a_shrink),
    s15_what_was_answered_early_was_not_applied: (2, 1, with_commits_as_early_as_answers),
    s17_another_disk_in_the_place_of_an_in_sync_one: (2, 1, with_slots_instead_of_files),
    s18a_a_damaged_row_is_not_replaced_by_the_one_before: (2, 1, with_the_row_before),
    s25_the_only_holder_is_cut_off_and_serves_on: (2, 1, with_anybody_promoted),
    l2_a_change_of_one_peer_leaves_the_others_alone: (3, 2, with_links_reset_by_every_line),
    l3_a_dead_peer_does_not_hold_up_an_opening: (3, 1, with_a_long_fence_deadline),
    l5_a_primary_that_reaches_only_the_master_hands_over: (3, 2, without_hand_over),
    l6_a_slow_peer_leaves_and_stays_out_for_a_while: (3, 2, with_patience),
    l6_a_slow_peer_that_flaps: (3, 2, without_a_calm),
    l9_a_primary_whose_own_disk_hangs_hands_over: (3, 2, without_a_word_of_the_own_disk),
    l9_where_every_disk_is_slow_nobody_hands_over: (3, 2, with_wishes_whoever_is_quicker),
    l9_a_disk_that_is_slow_whenever_it_leads_is_left_once: (2, 1, without_a_word_of_who_was_slow),
    l9_who_was_slow_is_better_than_nobody: (2, 1, with_wishes_that_bind),
    l11_an_old_primary_that_still_claims_blocks_nothing: (3, 2, with_claims_without_epoch),
    l12_nobody_is_made_pending_while_the_master_is_away: (2, 1, with_pending_whoever_is_away),
    l13_silence_towards_the_master_alone_moves_nothing: (3, 2, with_expiry_alone),
}


POLICIES = {
    s14a_the_grant_of_another_is_waited_for: AckPolicy.QUORUM,
    s14b_any_member_may_open: AckPolicy.QUORUM,
    s14e_a_shrink_before_the_others_have_everything: AckPolicy.QUORUM,
    s15_what_was_answered_early_was_not_applied: AckPolicy.LOCAL,
}

#: Taken away before the curtain rises: what is told again was told once, what is bound was bound at the start.
EARLY = (s4_the_first_fact_is_the_newest, l5_a_primary_that_reaches_only_the_master_hands_over)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_well(schedule: Callable[[Stage], None]) -> None:
    rf, least, _ = SCHEDULES[schedule]
    with stage(rf, least, ack=POLICIES.get(schedule, AckPolicy.SYNC)) as s:
        schedule(s)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_badly_without_its_rule(
    schedule: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rf, least, take_away = SCHEDULES[schedule]
    early = schedule in EARLY
    if early:
        take_away(monkeypatch)
    with stage(rf, least, ack=POLICIES.get(schedule, AckPolicy.SYNC)) as s:
        if not early:
            take_away(monkeypatch)
        with ends_badly():
            schedule(s)
