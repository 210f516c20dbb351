"""When a primary asks to be relieved for its pace, and for how long a replica is none to hand over to (L9)."""

from __future__ import annotations

from typing import Any

from sparrow.base.ids import Lsn
from sparrow.node.pace import CALM_S, PAUSE_LAST_S
from sparrow.node.relief import GRAY_HOLD_S, HUNG_S, PAUSE_FIRST_S, STILL_S, Relief

LOOK_S = 0.25


class Leading:
    """A replica that leads and is looked at every quarter of a second."""

    def __init__(self, now: float = 0.0) -> None:
        self.relief = Relief()
        self.now = now
        self.durable = 10
        self.look(0.0)

    def look(self, seconds: float, *, lag_s: float = 0.0, grows: bool = True, **found: Any) -> None:
        """What is found from the next look on, for a while; ``grows``: its log takes entries meanwhile."""
        for _ in range(max(1, round(seconds / LOOK_S))):
            self.now += LOOK_S
            self.durable += grows
            self.relief.look(
                own_lag_s=lag_s,
                durable_lsn=Lsn(self.durable),
                now=self.now,
                **{"serves": True, "quicker": False, "behind": False, "all_slow": False, **found},
            )

    @property
    def asks(self) -> bool:
        return self.relief.asks(self.now)

    @property
    def was_slow(self) -> bool:
        return self.relief.was_slow(self.now)


def test_l9_a_slow_disk_asks_once_a_peer_is_quicker_and_is_trusted_again_after_a_while() -> None:
    one = Leading()
    one.look(1.0, lag_s=1.0, quicker=True)
    assert not one.asks, "a second is not slow yet"
    one.look(LOOK_S, lag_s=1.1, quicker=True)
    assert one.asks
    one.look(GRAY_HOLD_S - LOOK_S)
    assert one.asks, "one that hung is not trusted at once"
    one.look(LOOK_S)
    assert not one.asks


def test_l9_where_nobody_is_quicker_a_slow_disk_stays() -> None:
    one = Leading()
    one.look(60.0, lag_s=5.0, behind=True)
    assert one.relief.slow(one.now)
    assert not one.asks


def test_l9_who_was_slow_is_none_to_hand_over_to_for_a_while_that_doubles() -> None:
    one = Leading()
    assert not one.was_slow
    pauses = []
    for _ in range(6):
        one.look(5.0, lag_s=1.2)
        began = one.now
        while one.was_slow:
            one.look(1.0)
        pauses.append(round(one.now - began))
    assert pauses == [PAUSE_FIRST_S * 2**n for n in range(4)] + [PAUSE_LAST_S, PAUSE_LAST_S]
    one.look(3 * PAUSE_LAST_S)
    one.look(5.0, lag_s=1.2)
    one.look(PAUSE_FIRST_S)
    assert not one.was_slow, "that was long ago"


def test_what_waited_while_the_process_stood_still_did_not_wait_for_the_disk() -> None:
    one = Leading()
    one.now += STILL_S
    one.look(LOOK_S, lag_s=1.5, quicker=True, behind=True)
    assert not one.asks
    assert not one.was_slow
    one.look(LOOK_S, lag_s=1.75, quicker=True, behind=True)
    assert one.asks, "it waits still"


def test_l9_a_log_that_takes_nothing_more_is_hung_when_a_peer_has_more() -> None:
    one = Leading()
    one.look(HUNG_S, lag_s=5.0, grows=False, behind=True)
    assert not one.relief.hung
    one.look(LOOK_S, lag_s=5.0, grows=False)
    assert not one.relief.hung, "nobody has more"
    one.look(LOOK_S, lag_s=5.0, grows=False, behind=True)
    assert one.relief.hung
    one.look(LOOK_S, lag_s=5.0, behind=True)
    assert not one.relief.hung, "it has taken an entry"


def test_l9_a_log_that_is_far_behind_and_takes_entries_is_not_hung() -> None:
    one = Leading()
    one.look(3 * HUNG_S, lag_s=2 * HUNG_S, behind=True)
    assert not one.relief.hung


def test_l9_an_idle_log_and_one_whose_process_stood_still_are_not_hung() -> None:
    one = Leading()
    one.look(2 * HUNG_S, grows=False, behind=True)
    assert not one.relief.hung
    one.look(LOOK_S, lag_s=0.1, grows=False, behind=True)
    one.now += 2 * HUNG_S
    one.look(LOOK_S, lag_s=2 * HUNG_S, grows=False, behind=True)
    assert not one.relief.hung


def test_l9_who_opens_with_a_log_that_hangs_needs_nobody_to_compare_with() -> None:
    one = Leading()
    one.look(HUNG_S + LOOK_S, lag_s=5.0, grows=False, serves=False)
    assert one.relief.hung
    assert not one.asks


def test_l6_slow_to_all_it_asks_if_its_own_disk_is_quick() -> None:
    one = Leading()
    one.look(CALM_S)
    one.look(LOOK_S, all_slow=True)
    assert one.asks
    one.look(LOOK_S)
    assert not one.asks
    assert not one.was_slow, "its disk was not"


def test_l6_where_all_are_slow_and_its_own_disk_too_it_stays() -> None:
    one = Leading()
    one.look(CALM_S)
    one.look(LOOK_S, lag_s=0.3)
    one.look(CALM_S - LOOK_S, all_slow=True)
    assert not one.asks
    one.look(2 * LOOK_S, all_slow=True)
    assert one.asks


def test_l6_having_asked_because_all_are_slow_it_does_not_ask_again_for_a_while() -> None:
    one = Leading()
    one.look(CALM_S)
    one.look(PAUSE_FIRST_S / 2, all_slow=True)
    assert one.asks, "nobody relieved it yet"
    one.look(LOOK_S)
    one.look(LOOK_S, all_slow=True)
    assert not one.asks
    one.look(PAUSE_FIRST_S / 2)
    one.look(LOOK_S, all_slow=True)
    assert one.asks
