"""The peers of an open volume, event by event: growing, shrinking, catching up, rebuilding."""

from __future__ import annotations

import pytest

from sparrow.authority.types import Intent
from sparrow.base import events as names
from sparrow.base.ids import Lsn
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.peers.links import SET_ASIDE_S
from sparrow.node.peers.state import Stage
from sparrow.ports.dataplane import RebuildKind, RebuildPlan
from sparrow.rpc.messages import JoinAnswerOutcome
from tests.support.lines import line, member, rid, uuid_of
from tests.support.peers_driver import Driver, elsewhere

FULL = RebuildPlan(kind=RebuildKind.FULL)


def test_s1_a_grow_is_asked_only_when_the_peer_has_the_frozen_commit_and_grants() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.catch_up("b", head=95)
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("b"),))]
    driver.take(fx.SetMembership)
    driver.make_pending("b", frozen=100)
    driver.seen("b", 99, head=100)
    assert not driver.take(fx.AskGrow)
    driver.seen("b", 100, head=100, granted=False)
    assert not driver.take(fx.AskGrow)
    driver.seen("b", 100, head=100)
    (ask,) = driver.take(fx.AskGrow)
    assert (ask.replica, ask.basis, ask.uuid) == ("b", driver.peers.line.lineage, uuid_of("b"))


def test_a_peer_that_does_not_grant_yet_is_not_needed_so_that_the_gate_stays_open() -> None:
    """After a restart of its node it may be fed, and up to date, before the connection for grants is there again."""
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 20, head=20)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")))
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(20)))
    driver.seen("b", 20, head=20, granted=False)
    driver.wait(2.0)
    assert not driver.take(fx.RecordPending)
    driver.seen("b", 20, head=20)
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("b"),))]


def test_pending_is_durable_before_commits_need_the_peer() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.catch_up("b")
    assert not driver.take(fx.SetMembership)
    driver.tell(ev.PendingRecorded(pending=(rid("b"),)))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(rid("b"),), writable=True)]
    assert not driver.take(fx.AskGrow)


def test_a_refusal_that_names_the_basis_ends_pending_after_it_is_recorded() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.catch_up("b")
    driver.make_pending("b", frozen=20)
    driver.seen("b", 20, head=20)
    (ask,) = driver.take(fx.AskGrow)
    driver.take(fx.RecordPending)
    driver.take(fx.SetMembership)
    driver.tell(
        ev.AskEnded(intent=Intent.GROW_IN_SYNC, replica=rid("b"), basis=ask.basis, refusal="no")
    )
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=())]
    assert not driver.take(fx.SetMembership), "needed until the record without it is durable"
    driver.tell(ev.PendingRecorded(pending=()))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(), writable=True)]


def test_a_refusal_of_an_older_basis_ends_nothing() -> None:
    driver = Driver(line(1, 2, "a", "a", members="ab"))
    driver.catch_up("b")
    driver.make_pending("b", frozen=20)
    driver.take(fx.SetMembership)
    driver.tell(
        ev.AskEnded(
            intent=Intent.GROW_IN_SYNC,
            replica=rid("b"),
            basis=line(1, 1, "a", "a").lineage,
            refusal="no",
        )
    )
    assert driver.peers.needed == ("b",)


def test_a_newer_line_ends_pending_and_growing_starts_again_under_it() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.catch_up("b")
    driver.make_pending("b", frozen=20)
    driver.seen("b", 20, head=20)
    driver.take(fx.AskGrow)
    driver.take(fx.RecordPending)
    driver.tell(ev.LineChanged(line=line(1, 2, "a", "a", members="ab")))
    # The line may be the refusal itself: at once, the same ask would only mint the next one.
    assert driver.take(fx.RecordPending) == []
    driver.wait(1.1)
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("b"),))]


def test_a_line_that_comes_before_a_pending_peer_is_proved_does_not_leave_it_behind() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.catch_up("b")
    driver.tell(ev.PendingRecorded(pending=(rid("b"),)))
    driver.take(fx.RecordPending)
    driver.tell(ev.LineChanged(line=line(1, 2, "a", "a", members="ab")))
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("b"),))]


def test_a_peer_whose_address_changes_is_joined_again_and_grown() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.catch_up("b")
    driver.make_pending("b", frozen=20)
    driver.take(fx.SendJoin)
    driver.take(fx.AskGrow)
    moved = line(1, 2, "a", "a", members=(member("a"), elsewhere("b")))
    driver.tell(ev.LineChanged(line=moved))
    assert driver.take(fx.DropPeer)
    assert [join.replica for join in driver.take(fx.SendJoin)] == ["b"]
    driver.joined("b", 20, head=20, uuid=uuid_of("x"))
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")))
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(20)))
    driver.seen("b", 20, head=20)
    driver.wait(1.1)
    driver.make_pending("b", frozen=20)
    driver.seen("b", 20, head=20)
    assert [ask.basis for ask in driver.take(fx.AskGrow)] == [moved.lineage]


def test_a_peer_whose_address_changes_while_it_becomes_pending_is_grown_all_the_same() -> None:
    """Its record is durable and it is needed before it was joined anew: the engine is told of it when it asks."""
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.catch_up("b")
    assert driver.take(fx.RecordPending)
    moved = line(1, 2, "a", "a", members=(member("a"), elsewhere("b")))
    driver.tell(ev.LineChanged(line=moved))
    driver.make_pending("b", frozen=20)
    driver.take(fx.SetMembership)
    driver.joined("b", 20, head=20, uuid=uuid_of("x"))
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")))
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(20)))
    assert [one.needed for one in driver.take(fx.SetMembership)] == [("b",)]
    driver.tell(ev.MembershipSet(needed=(rid("b"),), frozen_lsn=Lsn(21)))
    driver.seen("b", 20, head=21)
    assert not driver.take(fx.AskGrow)
    driver.seen("b", 21, head=21)
    assert [ask.basis for ask in driver.take(fx.AskGrow)] == [moved.lineage]


def test_a_peer_grown_by_a_line_is_needed_without_being_pending() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.catch_up("b")
    driver.make_pending("b", frozen=20)
    driver.tell(ev.LineChanged(line=line(1, 2, "a", "ab", members="ab")))
    assert driver.peers.pending == ()
    assert driver.peers.needed == ("b",)
    assert driver.reported(names.PEER_GROWN) == 1


def test_l12_growing_waits_for_the_control_stream() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"), live=False)
    driver.catch_up("b")
    assert not driver.take(fx.RecordPending)
    driver.tell(ev.ControlChanged(live=True))
    assert driver.take(fx.RecordPending)


def test_one_peer_at_a_time_is_pending() -> None:
    driver = Driver(line(1, 1, "a", "a"))
    driver.catch_up("b")
    driver.catch_up("c")
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("b"),))]
    driver.make_pending("b", frozen=20)
    driver.tell(ev.LineChanged(line=line(1, 2, "a", "ab")))
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("c"),))]


def test_a_peer_pending_since_before_the_term_proves_itself_again() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"), linked="b", pending="b")
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(rid("b"),), writable=True)]
    driver.tell(ev.MembershipSet(needed=(rid("b"),), frozen_lsn=Lsn(12)))
    driver.seen("b", 12, head=12)
    assert not driver.take(fx.RecordPending)
    assert [a.replica for a in driver.take(fx.AskGrow)] == ["b"]


def test_missing_entries_are_shipped_from_where_the_logs_part() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 7, head=50)
    (ship,) = driver.take(fx.StartShip)
    assert (ship.joined_lsn, ship.rebuild) == (7, None)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")))
    assert driver.take(fx.AwaitAcked) == [fx.AwaitAcked(replica=rid("b"), lsn=Lsn(50))]
    driver.seen("b", 49, head=50)
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(49)))
    assert not driver.take(fx.RecordPending)
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(50)))
    assert driver.take(fx.RecordPending)


@pytest.mark.parametrize(
    "changes",
    [
        {"oldest_lsn": Lsn(9)},
        {"outcome": JoinAnswerOutcome.NO_COMMON_POINT},
        {"outcome": JoinAnswerOutcome.REBUILDING},
        {"check_matches": False},
    ],
)
def test_a_peer_the_log_cannot_bring_back_is_rebuilt(changes: dict[str, object]) -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 7, head=50, **changes)
    assert not driver.take(fx.StartShip)
    assert len(driver.take(fx.PrepareRebuild)) == 1
    driver.tell(
        ev.RebuildPrepared(replica=rid("b"), link=driver.newest("b"), uuid=uuid_of("b"), plan=FULL)
    )
    (ship,) = driver.take(fx.StartShip)
    assert ship.rebuild == FULL
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b"), rebuild=True), after=20.0)
    assert not driver.take(fx.RecordPending)
    driver.tell(
        ev.BaseComplete(replica=rid("b"), link=driver.newest("b"), lsn=Lsn(60)), after=300.0
    )
    driver.seen("b", 60, head=60)
    assert driver.take(fx.RecordPending)


def test_d41_a_copy_that_ended_counts_after_an_ack_of_the_live_lane_only() -> None:
    """The live path breaks right after the close: what the copy came to proves nothing of what is written since."""
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 7, head=50, outcome=JoinAnswerOutcome.REBUILDING)
    driver.tell(
        ev.RebuildPrepared(replica=rid("b"), link=driver.newest("b"), uuid=uuid_of("b"), plan=FULL)
    )
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b"), rebuild=True))
    driver.seen("b", 0, head=50)
    driver.tell(ev.BaseComplete(replica=rid("b"), link=driver.newest("b"), lsn=Lsn(60)))
    assert not driver.take(fx.RecordPending), "it grants, so only the ack is missing"
    assert [one.lsn for one in driver.take(fx.AwaitAcked)] == [60]
    driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="closed"))
    driver.wait(10.0)
    assert not driver.take(fx.RecordPending)
    driver.joined("b", 60, head=80)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")))
    driver.seen("b", 60, head=80)
    assert not driver.take(fx.RecordPending)
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(80)))
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("b"),))]


def test_a_gap_of_one_is_no_gap() -> None:
    """R + 1 = S: the next entry is exactly the oldest one kept."""
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 8, head=50, oldest_lsn=Lsn(9))
    assert driver.take(fx.StartShip)
    assert not driver.take(fx.PrepareRebuild)


def test_a_member_in_sync_is_never_emptied_before_a_line_leaves_it_out() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="ab"), linked="b")
    driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="reset"))
    driver.joined("b", 7, head=50, outcome=JoinAnswerOutcome.NO_COMMON_POINT)
    assert not driver.take(fx.PrepareRebuild)
    (ask,) = driver.take(fx.AskShrink)
    assert ask.replica == "b"
    driver.tell(ev.LineChanged(line=line(1, 2, "a", "a", members="ab")))
    driver.wait(2.0)
    driver.joined("b", 7, head=50, outcome=JoinAnswerOutcome.NO_COMMON_POINT)
    assert driver.take(fx.PrepareRebuild)


def test_a_rebuild_that_breaks_is_begun_again_however_often() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    for _ in range(6):
        driver.joined("b", 0, head=50, outcome=JoinAnswerOutcome.REBUILDING)
        assert driver.take(fx.PrepareRebuild)
        driver.tell(
            ev.RebuildPrepared(
                replica=rid("b"), link=driver.newest("b"), uuid=uuid_of("b"), plan=FULL
            )
        )
        driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b"), rebuild=True))
        driver.take(fx.SendJoin)
        driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="reset"))
        driver.wait(11.0)
        assert driver.take(fx.SendJoin)


def test_links_that_break_again_and_again_never_turn_a_catch_up_into_a_rebuild() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    for _ in range(8):
        driver.joined("b", 7, head=50)
        assert driver.take(fx.StartShip)
        driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")))
        driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="reset"))
        driver.wait(11.0)
    assert not driver.take(fx.PrepareRebuild)


def test_an_idle_peer_comes_back_into_the_set_after_a_failed_catch_up() -> None:
    """Nothing is written meanwhile, so nothing but the join itself can move things on."""
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 7, head=50)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")))
    driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="reset"))
    driver.wait(3.0)
    driver.catch_up("b", head=50)
    driver.seen("b", 50, head=50)
    assert driver.take(fx.RecordPending)


def test_a_lost_link_of_a_needed_peer_is_joined_at_once_and_asked_out_after_a_moment() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="ab"), linked="b")
    driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="reset"))
    assert len(driver.take(fx.SendJoin)) == 1
    driver.tell(ev.JoinFailed(replica=rid("b"), link=driver.newest("b"), cause="refused"))
    driver.wait(0.1)
    assert not driver.take(fx.AskShrink)
    driver.wait(0.15)
    (ask,) = driver.take(fx.AskShrink)
    assert ask.replica == "b"
    assert driver.peers.needed == ("b",), "waited for until the line says otherwise"


def test_a_lost_link_that_is_made_again_quickly_is_nobodys_business() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="ab"), linked="b")
    driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="reset"))
    driver.joined("b", 10, head=10)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")), after=0.1)
    driver.wait(5.0)
    assert not driver.take(fx.AskShrink)


def test_an_absent_peer_is_tried_ever_more_rarely_and_again_soon_after_success() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    times = []
    for _ in range(7):
        driver.take(fx.SendJoin)
        driver.tell(ev.JoinFailed(replica=rid("b"), link=driver.newest("b"), cause="refused"))
        began = driver.now
        while not driver.take(fx.SendJoin):
            assert driver.peers.wake_at is not None
            driver.wait(driver.peers.wake_at - driver.now)
        times.append(driver.now - began)
    assert times == pytest.approx([1, 2, 2, 2, 2, 2, 2])


def test_a_peer_that_owes_an_ack_and_is_silent_for_a_second_is_asked_out() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="ab"), linked="b")
    driver.seen("b", 10, head=11, silent_ms=60_000)
    driver.now += 0.9
    driver.seen("b", 10, head=11, silent_ms=60_900)
    assert not driver.take(fx.AskShrink), "the entry is less than a second old"
    driver.now += 0.2
    driver.seen("b", 10, head=11, silent_ms=61_100)
    assert driver.take(fx.AskShrink)


def test_an_idle_link_may_be_silent_for_hours() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="ab"), linked="b")
    for _ in range(10):
        driver.now += 1000
        driver.seen("b", 10, head=10, silent_ms=1_000_000)
    assert not driver.take(fx.AskShrink)
    assert not driver.take(fx.DropPeer)


def test_a_quarantined_peer_is_reported_and_left_alone() -> None:
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 0, head=50, outcome=JoinAnswerOutcome.QUARANTINED)
    assert driver.reported(names.REPLICA_QUARANTINED) == 1
    assert not driver.take(fx.PrepareRebuild)
    assert not driver.take(fx.StartShip)
    driver.take(fx.SendJoin)
    driver.wait(SET_ASIDE_S - 1.0)
    assert not driver.take(fx.SendJoin)
    assert driver.peers.peers[rid("b")].stage is Stage.SET_ASIDE


def test_a_newer_epoch_at_a_peer_ends_everything() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="ab"), linked="b")
    driver.tell(
        ev.JoinFailed(
            replica=rid("b"), link=driver.newest("b"), cause="epoch 2 is promised", superseded=True
        )
    )
    assert driver.take(fx.StepDown)
    driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="reset"))
    driver.wait(5.0)
    assert not driver.take(fx.SendJoin)


def test_below_min_in_sync_nothing_new_commits() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="abc", min_in_sync=2), linked="b")
    driver.tell(ev.LineChanged(line=line(1, 2, "a", "a", members="abc", min_in_sync=2)))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(), writable=False)]


def test_a_replica_taken_out_of_the_members_is_dropped() -> None:
    driver = Driver(line(1, 1, "a", "a"), linked="c")
    driver.tell(ev.LineChanged(line=line(1, 2, "a", "a", members="ab")))
    assert driver.take(fx.DropPeer) == [fx.DropPeer(replica=rid("c"))]
    assert rid("c") not in driver.peers.peers


def test_an_end_of_pending_that_the_core_did_not_hear_of_is_recorded_again() -> None:
    """Until it is, nobody else can become pending."""
    driver = Driver(line(1, 1, "a", "a", members="abc"))
    driver.catch_up("b")
    driver.make_pending("b", frozen=20)
    driver.seen("b", 20, head=20)
    (ask,) = driver.take(fx.AskGrow)
    driver.take(fx.RecordPending)
    driver.tell(
        ev.AskEnded(intent=Intent.GROW_IN_SYNC, replica=rid("b"), basis=ask.basis, refusal="no")
    )
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=())]
    driver.tell(ev.CommandFailed(command="record_pending", cause="the core is busy"))
    driver.catch_up("c")
    assert driver.peers.pending == ("b",)
    assert not driver.take(fx.RecordPending)
    driver.wait(1.1)
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=())]
    driver.wait(1.1)
    assert not driver.take(fx.RecordPending), "it is under way"
    driver.tell(ev.PendingRecorded(pending=()))
    (record,) = driver.take(fx.RecordPending)
    assert record.pending


def test_a_catch_up_is_over_when_its_frontier_is_seen_though_nobody_waited_for_it() -> None:
    """The core may have been too busy to hear that somebody waits for the acknowledgement."""
    driver = Driver(line(1, 1, "a", "a", members="ab"))
    driver.joined("b", 10, head=50)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")))
    driver.seen("b", 49, head=50)
    assert driver.reported(names.PEER_CAUGHT_UP) == 0
    driver.seen("b", 50, head=50)
    assert driver.reported(names.PEER_CAUGHT_UP) == 1
    assert driver.take(fx.RecordPending) == [fx.RecordPending(pending=(rid("b"),))]


def test_a_membership_the_core_refused_is_set_again() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="ab"), linked="b")
    driver.tell(ev.LineChanged(line=line(1, 2, "a", "a", members="ab")))
    assert driver.take(fx.SetMembership)
    driver.tell(ev.CommandFailed(command="set_membership", cause="no room"))
    assert not driver.take(fx.SetMembership)
    driver.wait(1.1)
    assert driver.take(fx.SetMembership)


def test_an_eligible_peer_could_take_over_so_the_gate_needs_its_grant() -> None:
    """Otherwise who is cut off below min_in_sync goes on reading what its successor has written over."""
    driver = Driver(line(1, 1, "a", "ab", members="abc", min_in_sync=2))
    below = line(1, 2, "a", "a", members="abc", min_in_sync=2, eligible="b")
    driver.tell(ev.LineChanged(line=below))
    (wanted,) = driver.take(fx.SetMembership)[-1:]
    assert wanted.needed == ("b",)
    assert not wanted.writable
    assert driver.peers.needed == ()


def test_an_eligible_peer_that_becomes_pending_is_proved_like_any_other() -> None:
    driver = Driver(line(1, 1, "a", "ab", members="ab", min_in_sync=2))
    driver.tell(
        ev.LineChanged(line=line(1, 2, "a", "a", members="ab", min_in_sync=2, eligible="b"))
    )
    driver.take(fx.SetMembership)
    driver.catch_up("b")
    driver.tell(ev.PendingRecorded(pending=(rid("b"),)))
    assert [one.needed for one in driver.take(fx.SetMembership)] == [("b",)]
