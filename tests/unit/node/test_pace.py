"""When one peer is slow, and when it may come back (L6)."""

from __future__ import annotations

import pytest

from sparrow.base.ids import Lsn
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.pace import CALM_S, PAUSE_FIRST_S, PAUSE_LAST_S, WINDOW_S, Pace
from sparrow.ports.dataplane import PeerPhase, PeerStatus
from tests.support.lines import line, rid
from tests.support.peers_driver import Driver

LOOK_S = 0.25


def look(
    pace: Pace, at: float, seconds: float, *, lag_s: float = 0.0, worst_s: float = 0.0
) -> float:
    """A look every quarter of a second; the time of the last."""
    turns = round(seconds / LOOK_S)
    for turn in range(turns + 1):
        pace.seen(lag_s=lag_s, worst_s=worst_s, now=at + turn * LOOK_S)
    return at + turns * LOOK_S


def test_one_hiccup_makes_nobody_slow_and_a_whole_window_does() -> None:
    pace = Pace()
    now = look(pace, 0.0, 2.0)
    pace.seen(lag_s=3.0, worst_s=3.0, now=now + 0.25)
    assert not pace.slow(now + 0.25)
    now = look(pace, now + 0.5, 1.0, lag_s=1.1)
    assert pace.slow(now)
    assert not pace.slow(now + 1.0), "old looks say nothing"


def test_three_looks_at_one_moment_are_no_window() -> None:
    pace = Pace()
    for at in (0.0, 0.01, 0.02):
        pace.seen(lag_s=2.0, worst_s=2.0, now=at)
    assert not pace.slow(0.02)


@pytest.mark.parametrize(("lag_s", "worst_s"), [(0.3, 0.0), (0.0, 0.3)])
def test_it_comes_back_after_a_calm_that_nothing_broke(lag_s: float, worst_s: float) -> None:
    pace = Pace()
    pace.left(0.0)
    now = look(pace, 0.0, CALM_S + PAUSE_FIRST_S)
    assert pace.may_return(now)
    pace.seen(lag_s=lag_s, worst_s=worst_s, now=now + 0.1)
    assert not pace.may_return(now + 0.1)
    now = look(pace, now + 0.2, CALM_S - 1)
    assert not pace.may_return(now)
    assert pace.may_return(look(pace, now, 1.5))


def test_each_time_it_stays_out_twice_as_long_up_to_a_bound() -> None:
    pace = Pace()
    pauses = []
    now = 0.0
    for _ in range(9):
        pace.left(now)
        calm = look(pace, now, CALM_S)
        pauses.append((pace.returns_at(calm) or calm) - now)
        now = calm
    assert pauses == [10, 20, 40, 80, 160, 320, 600, 600, 600]
    assert max(pauses) == PAUSE_LAST_S


def test_who_never_had_to_leave_is_never_held_back() -> None:
    pace = Pace()
    pace.seen(lag_s=5.0, worst_s=5.0, now=1.0)
    assert pace.may_return(1.0)
    assert pace.returns_at(1.0) is None


@pytest.mark.parametrize(("lag_s", "worst_s"), [(0.3, 0.0), (0.0, 0.3)])
def test_it_is_quick_after_a_whole_window_of_quick_answers(lag_s: float, worst_s: float) -> None:
    pace = Pace()
    assert not pace.quick(0.0)
    now = look(pace, 0.0, WINDOW_S - LOOK_S)
    assert not pace.quick(now)
    now = look(pace, now, LOOK_S)
    assert pace.quick(now)
    pace.seen(lag_s=lag_s, worst_s=worst_s, now=now)
    assert not pace.quick(now)
    assert pace.quick(look(pace, now + LOOK_S, WINDOW_S))


@pytest.mark.parametrize(("lag_s", "worst_s"), [(0.5, 0.0), (0.0, 0.5)])
def test_it_is_not_quick_for_long_after_one_that_was_late(lag_s: float, worst_s: float) -> None:
    pace = Pace()
    pace.seen(lag_s=lag_s, worst_s=worst_s, now=0.0)
    pace.forget()
    assert not pace.quick(look(pace, LOOK_S, CALM_S - 2 * LOOK_S)), "another link, the same disk"
    assert pace.quick(look(pace, CALM_S, WINDOW_S))


# ---------------------------------------------------------------- what the machine makes of it


def seen(driver: Driver, seconds: float, *, full: str = "", **lag_ms: int) -> None:
    """The core's figures of all peers, for a while; those in ``full`` have no room in their pools."""
    for _ in range(round(seconds / LOOK_S)):
        driver.now += LOOK_S
        peers = tuple(
            (
                rid(name),
                PeerStatus(
                    slot=slot,
                    phase=PeerPhase.SHIPPING,
                    acked_lsn=Lsn(10),
                    shipped_lsn=Lsn(10),
                    granted=True,
                    silent_ms=0,
                    base_pages_done=0,
                    base_pages_total=0,
                    lag_ms=lag,
                    worst_ack_ms=lag,
                    pool_full=name in full,
                ),
            )
            for slot, (name, lag) in enumerate(lag_ms.items())
        )
        driver.tell(ev.PeersSeen(peers=peers, oldest_lsn=Lsn(1), head_lsn=Lsn(10)))


def test_l6_one_slow_peer_is_asked_out_and_the_quick_one_stays() -> None:
    driver = Driver(line(1, 1, "a", "abc", min_in_sync=2), linked="bc")
    seen(driver, 2.0, b=5, c=1200)
    (ask,) = driver.take(fx.AskShrink)
    assert (ask.replica, "too long" in ask.reason) == ("c", True)


def test_l6_a_slow_peer_that_was_taken_out_is_fed_on_and_grown_after_the_calm() -> None:
    driver = Driver(line(1, 1, "a", "abc", min_in_sync=2), linked="bc")
    seen(driver, 2.0, b=5, c=1200)
    driver.tell(ev.LineChanged(line=line(1, 2, "a", "ab", min_in_sync=2)))
    assert driver.take(fx.DropPeer) == [], "its link stays"
    seen(driver, 5.0, b=5, c=1200)
    assert driver.take(fx.RecordPending) == []
    seen(driver, PAUSE_FIRST_S - 1, b=5, c=5)
    assert driver.take(fx.RecordPending) == []
    seen(driver, 2.0, b=5, c=5)
    assert [one.pending for one in driver.take(fx.RecordPending)] == [(rid("c"),)]


def test_l6_two_copies_are_never_given_up_for_speed() -> None:
    driver = Driver(line(1, 1, "a", "ab", min_in_sync=1), linked="b")
    seen(driver, 3.0, b=5000)
    assert driver.take(fx.AskShrink) == []
    assert not driver.peers.all_slow, "nobody can tell who of the two it is"


def test_l7_a_peer_that_can_apply_nothing_is_asked_out_also_of_two() -> None:
    driver = Driver(line(1, 1, "a", "ab", min_in_sync=1), linked="b")
    seen(driver, 3.0, b=5, full="b")
    assert driver.take(fx.AskShrink) == [], "its log takes what comes"
    seen(driver, 3.0, b=5000, full="b")
    (ask,) = driver.take(fx.AskShrink)
    assert (ask.replica, ask.reason) == ("b", "its pool is full")


def test_l7_it_stays_where_without_it_there_would_be_too_few() -> None:
    driver = Driver(line(1, 1, "a", "abc", min_in_sync=3), linked="bc")
    seen(driver, 3.0, b=5, c=5000, full="c")
    assert driver.take(fx.AskShrink) == []


def test_l7_two_that_wait_for_room_say_nothing_of_this_replica() -> None:
    driver = Driver(line(1, 1, "a", "abc", min_in_sync=1), linked="bc")
    seen(driver, 3.0, b=5000, c=5000, full="bc")
    assert not driver.peers.all_slow
    assert {ask.replica for ask in driver.take(fx.AskShrink)} == {"b", "c"}


def test_l6_a_slow_peer_is_asked_out_beside_one_without_room_that_is_quick() -> None:
    """Its log takes what comes, for hours where little is written: so it is not this replica that is slow."""
    driver = Driver(line(1, 1, "a", "abc", min_in_sync=2), linked="bc")
    seen(driver, 3.0, b=5, c=1200, full="b")
    (ask,) = driver.take(fx.AskShrink)
    assert (ask.replica, "too long" in ask.reason) == ("c", True)
    assert not driver.peers.all_slow


def test_l9_who_is_in_sync_and_quick_could_lead_instead() -> None:
    driver = Driver(line(1, 1, "a", "ab", eligible="c"), linked="bc")
    seen(driver, 2.0, b=5, c=5)
    assert driver.peers.quicker(driver.now) == (rid("b"),)
    assert driver.peers.has_beyond(Lsn(9))
    assert not driver.peers.has_beyond(Lsn(10))
    seen(driver, LOOK_S, b=300, c=5)
    assert driver.peers.quicker(driver.now) == ()
    seen(driver, 2.0, b=5, c=5)
    peer = driver.peers.peers[rid("b")]
    driver.tell(ev.LinkLost(replica=rid("b"), link=peer.link, cause="closed"))
    assert driver.peers.quicker(driver.now) == ()


def test_l6_when_all_are_slow_it_may_be_this_replica() -> None:
    driver = Driver(line(1, 1, "a", "abc", min_in_sync=2), linked="bc")
    seen(driver, 2.0, b=1500, c=1200)
    assert driver.take(fx.AskShrink) == []
    assert driver.peers.all_slow
    seen(driver, 2.0, b=5, c=5)
    assert not driver.peers.all_slow
