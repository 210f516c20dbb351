"""ack=quorum in the machines of a primary (S14): who must answer an opening, what a commit needs, how a peer leaves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.types import AckPolicy, Intent, Line
from sparrow.base.ids import Lsn
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.opening.state import Phase
from tests.support.lines import fence, line, rid, term, uuid_of
from tests.unit.node import test_opening, test_peers
from tests.unit.node.test_pace import seen


def quorum(epoch: int, primary: str, in_sync: str, *, eligible: str = "") -> Line:
    return line(epoch, 1, primary, in_sync, min_in_sync=2, ack=AckPolicy.QUORUM, eligible=eligible)


# ---------------------------------------------------------------- opening


@pytest.mark.parametrize("answers", ["a", "c"])
def test_s14_two_answers_of_three_are_enough_whoever_gives_them(answers: str) -> None:
    driver = test_opening.Driver(quorum(2, "b", "abc"), "b", own=fence("b", 9))
    assert driver.opening.phase is Phase.FENCING
    driver.answer(fence(answers, 9), answers)
    assert test_opening.whom(driver.take(fx.SendJoin)) == [answers]
    driver.link(answers, 9, head=9)
    (told,) = driver.take(fx.SetMembership)
    assert (told.needed, told.one_of) == ((), (rid("a"), rid("c")))
    driver.tell(ev.MembershipSet(needed=(), one_of=told.one_of, frozen_lsn=Lsn(9)))
    assert driver.take(fx.CommitInherited)


def test_s14_the_longest_log_of_those_that_answered_is_adopted() -> None:
    driver = test_opening.Driver(quorum(2, "b", "abc"), "b", own=fence("b", 9))
    driver.answer(fence("c", 12), "c")
    (adopt,) = driver.take(fx.Adopt)
    assert (adopt.source, adopt.log.last_lsn) == ("c", 12)


def test_s14_who_does_not_answer_is_not_taken_out_he_may_have_the_second_copy() -> None:
    driver = test_opening.Driver(quorum(2, "b", "abc"), "b", own=fence("b", 9))
    driver.wait(5.0)
    assert driver.take(fx.AskShrink) == []
    assert driver.opening.phase is Phase.FENCING
    # With two in sync each has everything: who is silent may go, as under ack=sync.
    driver = test_opening.Driver(quorum(2, "b", "bc"), "b", own=fence("b", 9))
    driver.wait(5.0)
    assert test_opening.whom(driver.take(fx.AskShrink)) == ["c"]


def test_s14_other_files_and_suspect_ones_are_no_answer() -> None:
    driver = test_opening.Driver(quorum(2, "b", "abc"), "b", own=fence("b", 9))
    blank = fence("a", 0)
    driver.answer(
        replace(blank, log=replace(blank.log, uuid=driver.opening.line.members[2].uuid)), "a"
    )
    doubtful = fence("c", 9)
    driver.answer(replace(doubtful, log=replace(doubtful.log, suspect=True)), "c")
    assert driver.take(fx.SendJoin) == []
    assert driver.opening.phase is Phase.FENCING


def test_s14_the_longest_promise_named_in_any_answer_is_waited_for() -> None:
    """a served with the grant of c alone; b promised it nothing."""
    driver = test_opening.Driver(quorum(2, "b", "abc"), "b", own=fence("b", 9))
    driver.answer(replace(fence("c", 9, promise_ms=700), promised_to=term(1)), "c")
    driver.link("c", 9, head=9)
    driver.tell(ev.MembershipSet(needed=(), one_of=(rid("a"), rid("c")), frozen_lsn=Lsn(9)))
    driver.tell(ev.InheritedCommitted(lsn=Lsn(10)))
    (gate,) = driver.take(fx.OpenGate)
    assert gate.wait_ms >= 700


def test_one_that_goes_away_while_it_joins_is_stood_in_for_by_another() -> None:
    driver = test_opening.Driver(quorum(2, "b", "abc"), "b", own=fence("b", 9))
    driver.answer(fence("c", 9), "c")
    driver.take(fx.SendJoin)
    driver.tell(ev.JoinFailed(replica=rid("c"), link=driver.newest("c"), cause="gone"))
    driver.wait(3.0)
    assert "a" in test_opening.whom(driver.take(fx.SendFence))
    driver.answer(fence("a", 9), "a")
    assert "a" in test_opening.whom(driver.take(fx.SendJoin))
    driver.link("a", 9, head=9)
    assert driver.take(fx.SetMembership)


def test_a_pending_peer_is_needed_whatever_the_policy() -> None:
    of = line(1, 2, "a", "ab", min_in_sync=2, ack=AckPolicy.QUORUM)
    driver = test_opening.Driver(of, "a", pending="c", own=fence("a", 9))
    driver.answer(fence("b", 9), "b")
    assert driver.take(fx.SendJoin) == []
    driver.answer(fence("c", 9), "c")
    for name in "bc":
        driver.link(name, 9, head=9)
    (told,) = driver.take(fx.SetMembership)
    assert (told.needed, told.one_of) == ((rid("b"), rid("c")), ())


def test_local_is_told_to_the_core_and_changes_nothing_else() -> None:
    of = line(2, 1, "b", "bc", ack=AckPolicy.LOCAL)
    driver = test_opening.Driver(of, "b", own=fence("b", 9))
    driver.answer(fence("c", 9), "c")
    driver.link("c", 9, head=9)
    (told,) = driver.take(fx.SetMembership)
    assert (told.needed, told.one_of, told.ack_local) == ((rid("c"),), (), True)


# ---------------------------------------------------------------- open


def open_three() -> test_peers.Driver:
    driver = test_peers.Driver(quorum(1, "a", "abc"), linked="bc")
    driver.take(fx.SetMembership)
    driver.take(fx.AwaitAcked)
    return driver


def test_s14_a_peer_is_asked_out_only_when_each_other_has_the_commit_of_that_moment() -> None:
    driver = open_three()
    driver.tell(ev.LinkLost(replica=rid("c"), link=driver.newest("c"), cause="closed"))
    driver.wait(0.3)
    assert driver.take(fx.AskShrink) == []
    (told,) = driver.take(fx.SetMembership)
    assert (told.needed, told.one_of) == ((rid("b"),), ())
    driver.tell(ev.MembershipSet(needed=told.needed, frozen_lsn=Lsn(20), attempt=told.attempt))
    assert driver.take(fx.AskShrink) == [], "b has 10 of 20"
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(19)))
    assert driver.take(fx.AskShrink) == []
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(20)))
    (ask,) = driver.take(fx.AskShrink)
    assert ask.replica == "c"
    driver.wait(5.0)
    assert driver.take(fx.AskShrink) == [], "one ask for one basis"


def test_a_replaced_peer_is_taken_out_in_the_same_way_however_well_it_is() -> None:
    driver = open_three()
    driver.tell(ev.LeavingTold(replicas=(rid("c"),)))
    (told,) = driver.take(fx.SetMembership)
    assert (told.needed, told.one_of) == ((rid("b"),), ())
    driver.tell(ev.MembershipSet(needed=told.needed, frozen_lsn=Lsn(20), attempt=told.attempt))
    assert driver.take(fx.AskShrink) == []
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(20)))
    (ask,) = driver.take(fx.AskShrink)
    assert ask.replica == "c"


def test_a_replaced_peer_that_is_well_waits_for_who_is_lost() -> None:
    """Else the gate would wait for the grant of b, which is away, and could not be asked out meanwhile."""
    driver = open_three()
    driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="closed"))
    driver.tell(ev.LeavingTold(replicas=(rid("c"),)))
    assert driver.take(fx.SetMembership) == [], "one of both is enough still"
    driver.wait(0.3)
    (told,) = driver.take(fx.SetMembership)
    assert (told.needed, told.one_of) == ((rid("c"),), ()), "it is b that leaves"


def test_a_replaced_peer_stays_for_now_when_another_one_is_lost() -> None:
    driver = open_three()
    driver.tell(ev.LeavingTold(replicas=(rid("c"),)))
    (first,) = driver.take(fx.SetMembership)
    assert (first.needed, first.one_of) == ((rid("b"),), ())
    driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="closed"))
    (back,) = driver.take(fx.SetMembership)
    assert back.one_of == (rid("b"), rid("c"))
    driver.wait(0.3)
    (told,) = driver.take(fx.SetMembership)
    assert told.needed == (rid("c"),)
    # What the core says of the attempt that was given up lets nobody leave.
    driver.tell(ev.MembershipSet(needed=first.needed, frozen_lsn=Lsn(10), attempt=first.attempt))
    driver.tell(ev.PeerAcked(replica=rid("c"), lsn=Lsn(15)))
    assert driver.take(fx.AskShrink) == []
    driver.tell(ev.MembershipSet(needed=told.needed, frozen_lsn=Lsn(20), attempt=told.attempt))
    driver.tell(ev.PeerAcked(replica=rid("c"), lsn=Lsn(20)))
    assert test_opening.whom(driver.take(fx.AskShrink)) == ["b"]


def test_a_peer_that_comes_back_before_it_was_asked_out_stays() -> None:
    driver = open_three()
    driver.tell(ev.LinkLost(replica=rid("c"), link=driver.newest("c"), cause="closed"))
    driver.wait(0.3)
    driver.take(fx.SetMembership)
    driver.take(fx.SendJoin)
    driver.joined("c", 10, head=20)
    driver.tell(ev.ShipStarted(replica=rid("c"), link=driver.newest("c")))
    (told,) = driver.take(fx.SetMembership)
    assert told.one_of == (rid("b"), rid("c"))
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(99)))
    driver.wait(2.0)
    assert driver.take(fx.AskShrink) == []


def test_the_answer_to_an_attempt_before_proves_nothing() -> None:
    driver = open_three()
    driver.tell(ev.LinkLost(replica=rid("c"), link=driver.newest("c"), cause="closed"))
    driver.wait(0.3)
    (first,) = driver.take(fx.SetMembership)
    driver.joined("c", 10, head=20)
    driver.tell(ev.ShipStarted(replica=rid("c"), link=driver.newest("c")))
    driver.tell(ev.LinkLost(replica=rid("c"), link=driver.newest("c"), cause="closed"))
    driver.wait(0.3)
    driver.tell(ev.MembershipSet(needed=first.needed, frozen_lsn=Lsn(10), attempt=first.attempt))
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(15)))
    assert driver.take(fx.AskShrink) == []


@pytest.mark.parametrize(
    ("lsn", "changes"),
    [(20, {"uuid": uuid_of("wiped")}), (12, {})],
    ids=["other files", "the end of its log is lost"],
)
def test_s14_what_a_peer_acknowledged_before_it_joined_anew_lets_nobody_leave(
    lsn: int, changes: dict[str, object]
) -> None:
    """c is lost and on its way out, and b comes back without what it had acknowledged."""
    driver = open_three()
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(20)))
    driver.tell(ev.LinkLost(replica=rid("c"), link=driver.newest("c"), cause="closed"))
    driver.wait(0.3)
    (told,) = driver.take(fx.SetMembership)
    driver.tell(ev.LinkLost(replica=rid("b"), link=driver.newest("b"), cause="closed"))
    driver.joined("b", lsn, head=20, **changes)
    driver.tell(ev.MembershipSet(needed=told.needed, frozen_lsn=Lsn(20), attempt=told.attempt))
    assert driver.take(fx.AskShrink) == []
    driver.wait(1.0)
    driver.joined("b", 12, head=20)
    driver.tell(ev.ShipStarted(replica=rid("b"), link=driver.newest("b")))
    assert driver.take(fx.AskShrink) == []
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(20)))
    (ask,) = driver.take(fx.AskShrink)
    assert ask.replica == "c", "and with an ack of its files of now it does"


def test_a_refusal_that_names_the_basis_brings_the_quorum_back() -> None:
    driver = open_three()
    driver.tell(ev.LinkLost(replica=rid("c"), link=driver.newest("c"), cause="closed"))
    driver.wait(0.3)
    (told,) = driver.take(fx.SetMembership)
    driver.tell(ev.MembershipSet(needed=told.needed, frozen_lsn=Lsn(10), attempt=told.attempt))
    (ask,) = driver.take(fx.AskShrink)
    driver.tell(
        ev.AskEnded(intent=Intent.SHRINK_IN_SYNC, replica=rid("c"), basis=ask.basis, refusal="no")
    )
    (told,) = driver.take(fx.SetMembership)
    assert told.one_of == (rid("b"), rid("c"))


# ---------------------------------------------------------------- one that lags


def test_l6_who_lags_behind_a_quorum_is_asked_out_once_the_others_have_everything() -> None:
    """c grants and does not log; b alone is enough for every commit, so it holds up nothing."""
    driver = open_three()
    seen(driver, 2.0, b=5, c=1200)
    (told,) = driver.take(fx.SetMembership)
    assert (told.needed, told.one_of) == ((rid("b"),), ())
    assert driver.take(fx.AskShrink) == [], "b may lack what c has"
    driver.tell(
        ev.MembershipSet(needed=told.needed, one_of=(), frozen_lsn=Lsn(12), attempt=told.attempt)
    )
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(12)))
    (ask,) = driver.take(fx.AskShrink)
    assert (ask.replica, "too long" in ask.reason) == ("c", True)


def test_who_lags_behind_a_quorum_and_is_well_before_it_was_asked_out_stays() -> None:
    driver = open_three()
    seen(driver, 2.0, b=5, c=1200)
    (told,) = driver.take(fx.SetMembership)
    seen(driver, 2.0, b=5, c=5)
    (back,) = driver.take(fx.SetMembership)
    assert (back.needed, back.one_of) == ((), (rid("b"), rid("c")))
    driver.tell(
        ev.MembershipSet(needed=told.needed, one_of=(), frozen_lsn=Lsn(12), attempt=told.attempt)
    )
    driver.tell(ev.PeerAcked(replica=rid("b"), lsn=Lsn(12)))
    assert driver.take(fx.AskShrink) == []


def test_a_primary_whose_quorum_lags_asks_to_be_relieved_and_nobody_out() -> None:
    driver = open_three()
    seen(driver, 2.0, b=1500, c=1200)
    assert driver.peers.all_slow
    assert driver.take(fx.AskShrink) == []
    assert driver.take(fx.SetMembership) == []


def test_of_two_in_sync_neither_is_asked_out_for_its_pace() -> None:
    driver = test_peers.Driver(quorum(1, "a", "ab"), linked="b")
    driver.take(fx.SetMembership)
    seen(driver, 3.0, b=5000)
    assert driver.take(fx.AskShrink) == []
