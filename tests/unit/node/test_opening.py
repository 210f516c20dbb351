"""The opening of a volume, event by event. S numbers are schedules that lose data when a rule is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.authority.types import AckPolicy, Intent, Line, ReplicaState, Term
from sparrow.base import events as names
from sparrow.base.ids import Lsn, ReplicaUuid
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.link_ids import Link
from sparrow.node.opening.machine import Opening
from sparrow.node.opening.state import Phase
from sparrow.ports.dataplane import FenceReport
from sparrow.rpc.messages import JoinAnswerOutcome
from tests.support.lines import fence, line, log, rid, term, uuid_of
from tests.support.machine_driver import MachineDriver


class Driver(MachineDriver):
    """Of one opening."""

    BEGIN = (fx.SendJoin,)

    def __init__(self, of: Line, me: str, *, pending: str = "", own: FenceReport | None = None):
        self.me = me
        self.opening = Opening(line=of, replica=rid(me), pending=tuple(map(rid, pending)))
        super().__init__(self.opening, now=10.0)
        self.wanted = self.opening.begin()
        self.term = Term(epoch=of.lineage.epoch, start=5)
        if own is not None:
            self.begin(own)

    def begin(self, own: FenceReport) -> None:
        self.tell(ev.TermBegun(term=self.term, own=own))

    def answer(self, report: FenceReport, name: str, *, after: float = 0.0) -> None:
        self.tell(ev.FenceAnswered(replica=rid(name), report=report), after=after)

    def join(
        self, name: str, lsn: int, *, head: int, matches: bool = True, **changes: object
    ) -> None:
        answer = {
            "replica": rid(name),
            "link": self.newest(name),
            "uuid": uuid_of(name),
            "outcome": JoinAnswerOutcome.JOINED,
            "joined_lsn": Lsn(lsn),
            "check_matches": matches,
            "oldest_lsn": Lsn(1),
            "head_lsn": Lsn(head),
            **changes,
        }
        self.tell(ev.JoinAnswered(**answer))  # type: ignore[arg-type]

    def link(self, name: str, lsn: int, *, head: int) -> None:
        self.join(name, lsn, head=head)
        self.tell(ev.ShipStarted(replica=rid(name), link=self.newest(name)))

    def reported(self) -> list[str]:
        return [effect.event for effect in self.wanted if isinstance(effect, fx.Report)]


def whom(effects: list[fx.SendFence] | list[fx.SendJoin] | list[fx.AskShrink]) -> list[str]:
    return [effect.replica for effect in effects]


def test_nothing_is_sent_before_the_term_is_durable() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b")
    assert driver.wanted == [fx.BeginTerm(epoch=driver.opening.line.lineage.epoch)]
    driver.begin(fence("b", 9))
    assert whom(driver.take(fx.SendFence)) == ["a", "c"]


def test_a_volume_of_one_replica_opens_alone() -> None:
    driver = Driver(line(1, 1, "a", "a", members="a"), "a", own=fence("a", 0))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(), writable=True)]
    assert driver.take(fx.CommitInherited) == []
    driver.tell(ev.MembershipSet(needed=(), frozen_lsn=Lsn(0)))
    assert driver.take(fx.CommitInherited) == [fx.CommitInherited()]
    assert driver.take(fx.OpenGate) == []
    driver.tell(ev.InheritedCommitted(lsn=Lsn(1)))
    assert driver.take(fx.OpenGate) == [fx.OpenGate(wait_ms=0)]
    assert driver.opening.phase is Phase.ALLOWED


def test_every_step_waits_for_the_one_before() -> None:
    """Fence, adopt, join, ship, require, commit, open: nothing of a later step is asked for early."""
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    assert not driver.take(fx.SendJoin)
    driver.answer(fence("c", 9), "c")
    assert whom(driver.take(fx.SendJoin)) == ["c"]
    assert not driver.take(fx.StartShip)
    driver.join("c", 9, head=9)
    (ship,) = driver.take(fx.StartShip)
    assert (ship.replica, ship.joined_lsn, ship.rebuild) == ("c", 9, None)
    assert not driver.take(fx.SetMembership)
    driver.tell(ev.ShipStarted(replica=rid("c"), link=driver.newest("c")))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(rid("c"),), writable=True)]
    assert not driver.take(fx.CommitInherited)
    driver.tell(ev.MembershipSet(needed=(rid("c"),), frozen_lsn=Lsn(7)))
    assert driver.take(fx.CommitInherited)
    assert not driver.take(fx.OpenGate)
    driver.tell(ev.InheritedCommitted(lsn=Lsn(10)))
    assert driver.take(fx.OpenGate)


def test_s8_the_longest_log_is_adopted_before_anyone_is_cut() -> None:
    driver = Driver(line(1, 3, "a", "abc"), "a", own=fence("a", 9))
    driver.answer(fence("b", 10), "b")
    assert not driver.take(fx.Adopt), "c may hold more"
    driver.answer(fence("c", 9), "c")
    (adopt,) = driver.take(fx.Adopt)
    assert (adopt.source, adopt.log.last_lsn) == ("b", 10)
    assert not driver.take(fx.SendJoin)
    driver.tell(ev.LogAdopted(log=log("a", 10)))
    assert whom(driver.take(fx.SendJoin)) == ["b", "c"]


def test_s8_a_higher_term_beats_a_longer_log() -> None:
    """Entries of an older term above the end of a newer one were never committed."""
    driver = Driver(line(3, 1, "b", "bc"), "b", own=fence("b", 50, term(1)))
    driver.answer(fence("c", 40, term(2)), "c")
    (adopt,) = driver.take(fx.Adopt)
    assert adopt.source == "c"


def test_s2_a_restarted_primary_adopts_what_only_a_follower_kept() -> None:
    """Same line, same epoch: the follower has (1,10) and (1,11), the primary's own writes of them were lost."""
    driver = Driver(line(1, 1, "a", "ab", members="ab"), "a", own=fence("a", 9, term(1, 4)))
    assert driver.term == term(1, 5), "a new start, so LSN 10 of this start is another entry"
    driver.answer(fence("b", 11, term(1, 4)), "b")
    (adopt,) = driver.take(fx.Adopt)
    assert adopt.log.last_lsn == 11
    assert not driver.take(fx.CommitInherited)


def test_s3_a_durably_pending_peer_is_needed_like_one_in_sync() -> None:
    driver = Driver(line(1, 2, "a", "a", members="ab"), "a", pending="b", own=fence("a", 9))
    driver.wait(0.4)
    assert not driver.take(fx.CommitInherited)
    driver.answer(fence("b", 9), "b")
    driver.link("b", 9, head=9)
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(rid("b"),), writable=True)]


def test_s7_the_membership_waits_for_joined_not_for_a_raw_log_end() -> None:
    """c reports more than we have, of an older epoch: only what it joined at may ever count."""
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 103, term(2, 1)))
    driver.answer(fence("c", 105, term(1)), "c")
    assert not driver.take(fx.Adopt)
    assert not driver.take(fx.SetMembership)
    driver.join("c", 101, head=103)
    (ship,) = driver.take(fx.StartShip)
    assert ship.joined_lsn == 101


def test_s17_files_with_another_uuid_are_a_stranger() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.answer(fence("c", 9, uuid=uuid_of("other")), "c")
    assert not driver.take(fx.SendJoin)
    (ask,) = driver.take(fx.AskShrink)
    assert ask.replica == "c"
    assert "files" in ask.reason


def test_a_silent_member_is_reported_at_the_deadline_and_asked_out_once() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.wait(0.49)
    assert not driver.take(fx.AskShrink)
    driver.wait(0.02)
    assert driver.reported().count(names.FENCE_TIMED_OUT) == 1
    (ask,) = driver.take(fx.AskShrink)
    assert (ask.replica, ask.basis) == ("c", driver.opening.line.lineage)
    driver.wait(10.0)
    assert driver.reported().count(names.FENCE_TIMED_OUT) == 1
    assert not driver.take(fx.AskShrink)


def test_l3_a_lost_fence_is_sent_again_while_the_line_stands() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.wait(8.0)
    sent = [f.timeout_s for f in driver.take(fx.SendFence) if f.replica == "c"]
    assert sent == [0.5, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_a_refused_connection_is_tried_again_soon() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.take(fx.SendFence)
    driver.tell(ev.FenceFailed(replica=rid("c"), cause="refused"))
    driver.wait(0.11)
    assert whom(driver.take(fx.SendFence)) == ["c"]


def test_the_opening_goes_on_without_a_member_only_under_a_new_line() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.wait(5.0)
    assert not driver.take(fx.SetMembership)
    driver.tell(ev.LineChanged(line=line(2, 2, "b", "b")))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(), writable=True)]


def test_a_late_answer_makes_the_shrink_needless_but_harmless() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.wait(0.6)
    driver.answer(fence("c", 9), "c")
    driver.link("c", 9, head=9)
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(rid("c"),), writable=True)]
    driver.tell(ev.LineChanged(line=line(2, 2, "b", "b")))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(), writable=True)]


def test_a_refused_shrink_is_asked_again_later() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.wait(0.6)
    (ask,) = driver.take(fx.AskShrink)
    refusal = ev.AskEnded(
        intent=Intent.SHRINK_IN_SYNC, replica=rid("c"), basis=ask.basis, refusal="hand over first"
    )
    driver.tell(refusal)
    driver.wait(0.9)
    assert not driver.take(fx.AskShrink)
    driver.wait(0.2)
    assert driver.take(fx.AskShrink) == [ask]


def test_below_min_in_sync_the_term_opens_without_admitting_writes() -> None:
    driver = Driver(line(2, 2, "b", "b", min_in_sync=2), "b", own=fence("b", 9))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(), writable=False)]


def test_below_min_in_sync_the_eligible_are_forgotten_first() -> None:
    driver = Driver(line(2, 2, "b", "b", min_in_sync=2, eligible="c"), "b", own=fence("b", 9))
    assert not driver.take(fx.SetMembership)
    (ask,) = driver.take(fx.AskShrink)
    assert (ask.replica, ask.clear_eligible) == ("c", True)
    driver.tell(ev.LineChanged(line=line(2, 3, "b", "b", min_in_sync=2)))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(), writable=False)]


@pytest.mark.parametrize("told", [False, True], ids=["joining", "committing"])
def test_l4_who_becomes_eligible_after_its_answer_is_forgotten_before_anything_commits(
    told: bool,
) -> None:
    """c answers late, and the line that takes it out comes when the opening already counts on it."""
    driver = Driver(line(2, 1, "b", "bc", min_in_sync=2), "b", own=fence("b", 9))
    driver.wait(0.6)
    driver.answer(fence("c", 9), "c")
    if told:
        driver.link("c", 9, head=9)
        assert driver.take(fx.SetMembership)
    driver.tell(ev.LineChanged(line=line(2, 2, "b", "b", min_in_sync=2, eligible="c")))
    assert not driver.take(fx.SetMembership)
    ask = driver.take(fx.AskShrink)[-1]
    assert (ask.replica, ask.clear_eligible) == ("c", True)
    driver.tell(ev.LineChanged(line=line(2, 3, "b", "b", min_in_sync=2)))
    assert driver.take(fx.SetMembership) == [fx.SetMembership(needed=(), writable=False)]


def test_l4_an_entry_that_the_eligible_have_as_well_may_commit() -> None:
    driver = Driver(line(2, 1, "b", "bc", min_in_sync=2), "b", own=fence("b", 9))
    driver.answer(fence("c", 9), "c")
    driver.link("c", 9, head=9)
    driver.tell(ev.MembershipSet(needed=(rid("c"),), frozen_lsn=Lsn(9)))
    driver.tell(ev.LineChanged(line=line(2, 2, "b", "b", min_in_sync=2, eligible="c")))
    driver.tell(ev.InheritedCommitted(lsn=Lsn(10)))
    assert driver.take(fx.OpenGate)


def test_a_log_known_to_have_been_longer_keeps_the_volume_closed_with_evidence() -> None:
    driver = Driver(line(1, 1, "a", "abc"), "a", own=fence("a", 9, must_reach=12))
    driver.answer(fence("b", 11), "b")
    driver.answer(fence("c", 11), "c")
    assert driver.opening.phase is Phase.BLOCKED
    assert not driver.take(fx.Adopt)
    (report,) = [r for r in driver.take(fx.Report) if r.event == names.OPENING_BLOCKED]
    assert "12" in str(report.facts["cause"])
    driver.wait(2.1)
    assert {"b", "c"} <= set(whom(driver.take(fx.SendFence)))
    driver.answer(fence("b", 12), "b")
    driver.answer(fence("c", 11), "c")
    (adopt,) = driver.take(fx.Adopt)
    assert adopt.log.last_lsn == 12


def test_own_files_that_are_not_clean_never_open() -> None:
    driver = Driver(line(1, 1, "a", "a", members="a"), "a")
    driver.begin(fence("a", 9, state=ReplicaState.REBUILDING))
    driver.wait(10.0)
    assert driver.opening.phase is Phase.BLOCKED
    assert not driver.take(fx.SetMembership)
    assert driver.reported().count(names.OPENING_BLOCKED) == 1


def test_the_gate_waits_for_the_longest_promise_named_less_the_time_passed() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9, promise_ms=300))
    driver.answer(fence("c", 9, promise_ms=900), "c", after=0.1)
    driver.link("c", 9, head=9)
    driver.tell(ev.MembershipSet(needed=(rid("c"),), frozen_lsn=Lsn(9)))
    driver.tell(ev.InheritedCommitted(lsn=Lsn(10)), after=0.4)
    (gate,) = driver.take(fx.OpenGate)
    assert gate.wait_ms == pytest.approx(500 * 1.01 + 5, abs=1.5)


def allowed(driver: Driver, joined: str = "c") -> int:
    """Bring an opening whose fences were answered to the open gate; how long the gate is to wait, milliseconds."""
    for name in joined:
        driver.link(name, 9, head=9)
    driver.tell(ev.MembershipSet(needed=tuple(map(rid, joined)), frozen_lsn=Lsn(9)))
    driver.tell(ev.InheritedCommitted(lsn=Lsn(10)))
    (gate,) = driver.take(fx.OpenGate)
    return gate.wait_ms


def test_a_promise_is_not_waited_for_when_its_primary_says_that_the_term_is_closed() -> None:
    """It protects reads of that term, and there are none any more, whoever gave the promise."""
    old = term(1, 3)
    driver = Driver(line(2, 1, "b", "bc"), "b", own=promising("b", 800, old))
    driver.answer(replace(fence("a", 9), closed=old), "a")
    driver.answer(promising("c", 900, old), "c")
    assert allowed(driver) == 0


def test_other_promises_are_waited_for_all_the_same() -> None:
    """One given to a term before it, and the hold-off of a process that started."""
    old = term(1, 3)
    driver = Driver(line(3, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.answer(replace(fence("a", 9), closed=old), "a")
    driver.answer(promising("c", 900, old, older_ms=400), "c")
    assert allowed(driver) == pytest.approx(400 * 1.01 + 5, abs=1.5)


def test_the_word_of_another_term_voids_no_promise() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.answer(replace(fence("a", 9), closed=term(1, 2)), "a")
    driver.answer(promising("c", 900, term(1, 3)), "c")
    assert allowed(driver) == pytest.approx(900 * 1.01 + 5, abs=1.5)


def test_a_word_that_comes_after_the_gate_was_allowed_shortens_the_wait() -> None:
    old = term(1, 3)
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.answer(promising("c", 900, old), "c")
    assert allowed(driver) > 900
    driver.answer(replace(fence("a", 9), closed=old), "a", after=0.1)
    assert driver.take(fx.OpenGate) == [fx.OpenGate(wait_ms=0)]
    driver.answer(replace(fence("a", 9), closed=old), "a", after=0.1)
    assert driver.take(fx.OpenGate) == [], "said again, it changes nothing"


def promising(name: str, ms: int, to: Term, *, older_ms: int = 0) -> FenceReport:
    answer = fence(name, 9, promise_ms=ms)
    return replace(answer, promised_to=to, older_promise_ms=older_ms)


def test_a_newer_promise_ends_the_term() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.tell(ev.FenceFailed(replica=rid("c"), cause="epoch 3 is promised", superseded=True))
    assert driver.take(fx.StepDown)
    assert driver.opening.phase is Phase.OVER
    driver.take(fx.SendFence)
    driver.answer(fence("c", 9), "c")
    driver.wait(5.0)
    assert not driver.take(fx.SendFence)
    assert not driver.take(fx.SendJoin)


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": JoinAnswerOutcome.NO_COMMON_POINT},
        {"outcome": JoinAnswerOutcome.QUARANTINED},
        {"outcome": JoinAnswerOutcome.REBUILDING},
        {"check_matches": False},
        {"oldest_lsn": Lsn(11)},
        {"uuid": ReplicaUuid("f" * 32)},
    ],
)
def test_a_member_that_cannot_be_joined_is_never_counted(changes: dict[str, object]) -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 20))
    driver.answer(fence("c", 9), "c")
    driver.join("c", 9, head=20, **changes)
    assert not driver.take(fx.StartShip)
    assert not driver.take(fx.SetMembership)
    assert whom(driver.take(fx.AskShrink)) == ["c"]


def test_a_link_lost_while_committing_is_made_again() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.answer(fence("c", 9), "c")
    driver.link("c", 9, head=9)
    driver.tell(ev.MembershipSet(needed=(rid("c"),), frozen_lsn=Lsn(9)))
    driver.take(fx.SendJoin)
    driver.tell(ev.LinkLost(replica=rid("c"), link=driver.newest("c"), cause="reset"))
    driver.wait(0.11)
    assert whom(driver.take(fx.SendJoin)) == ["c"]
    driver.link("c", 10, head=10)
    assert len(driver.take(fx.CommitInherited)) == 1, "the entry is logged once"


def test_a_member_whose_link_stays_broken_is_asked_out() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.answer(fence("c", 9), "c")
    for _ in range(6):
        driver.tell(ev.JoinFailed(replica=rid("c"), link=driver.newest("c"), cause="reset"))
        driver.wait(0.11)
    assert whom(driver.take(fx.AskShrink)) == ["c"]


def test_a_source_that_dies_during_adoption_is_fenced_again() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.answer(fence("c", 12), "c")
    driver.take(fx.SendFence)
    driver.tell(ev.AdoptFailed(source=rid("c"), cause="reset"))
    driver.wait(0.11)
    assert whom(driver.take(fx.SendFence)) == ["c"]
    driver.answer(fence("c", 12), "c")
    assert driver.take(fx.Adopt)


def test_who_lacks_what_no_log_has_any_more_asks_to_be_relieved_until_it_does_not() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.answer(fence("c", 12), "c")
    driver.tell(ev.AdoptFailed(source=rid("c"), cause="recycled", lasting=True))
    assert driver.opening.outrun
    driver.wait(2.1)
    driver.answer(fence("c", 12), "c")
    assert driver.opening.outrun, "it tries again, and that changes nothing"
    driver.tell(ev.LogAdopted(log=log("b", 12)))
    assert not driver.opening.outrun


def test_a_non_member_of_in_sync_is_fenced_once_and_not_waited_for() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.wait(3.0)
    assert whom(driver.take(fx.SendFence)).count("a") == 1


def test_an_answer_counts_once() -> None:
    driver = Driver(line(1, 3, "a", "abc"), "a", own=fence("a", 9))
    driver.answer(fence("b", 10), "b")
    driver.answer(fence("b", 99), "b")
    driver.answer(fence("c", 9), "c")
    (adopt,) = driver.take(fx.Adopt)
    assert adopt.log.last_lsn == 10


def test_what_is_said_of_an_older_link_is_void() -> None:
    driver = Driver(line(2, 1, "b", "bc"), "b", own=fence("b", 9))
    driver.answer(fence("c", 9), "c")
    old = driver.newest("c")
    driver.tell(ev.JoinFailed(replica=rid("c"), link=old, cause="reset"))
    driver.wait(0.2)
    assert driver.newest("c") != old
    driver.join("c", 9, head=9, link=old)
    assert not driver.take(fx.StartShip)
    driver.link("c", 9, head=9)
    for event in (ev.JoinFailed, ev.ShipFailed, ev.LinkLost):
        driver.tell(event(replica=rid("c"), link=old, cause="closed"))
    assert driver.opening.links[rid("c")].stage is Link.UP
    driver.tell(ev.LinkLost(replica=rid("c"), link=driver.newest("c"), cause="closed"))
    driver.tell(ev.ShipStarted(replica=rid("c"), link=driver.newest("c")))
    assert not driver.opening.links, "it ended after it was made"


def test_links_are_handed_on_as_far_as_they_are() -> None:
    of = line(2, 1, "b", "abc", min_in_sync=2, ack=AckPolicy.QUORUM)
    driver = Driver(of, "b", own=fence("b", 9))
    driver.answer(fence("a", 9), "a")
    driver.answer(fence("c", 9), "c")
    driver.link("a", 9, head=9)
    driver.join("c", 8, head=9)
    found = {replica: (one.stage, one.joined_lsn) for replica, one in driver.opening.links.items()}
    assert found == {"a": (Link.UP, 9), "c": (Link.CONNECTING, 8)}
    assert driver.opening.links[rid("a")].link == driver.newest("a")


def test_a_peer_that_is_no_member_any_more_is_not_fed_on() -> None:
    driver = Driver(line(2, 1, "b", "bc", members="bcd"), "b", own=fence("b", 9))
    driver.answer(fence("c", 9), "c")
    driver.link("c", 9, head=9)
    driver.tell(ev.LineChanged(line=line(2, 2, "b", "b", members="bd")))
    assert driver.take(fx.DropPeer) == [fx.DropPeer(replica=rid("c"))]
