"""When volumes that write little are applied: after a second, and when many write, in turns."""

from __future__ import annotations

from sparrow._native.extent.testbed import RoundsBed

MS = 1_000_000
S = 1000 * MS


def test_few_volumes_are_applied_after_a_second() -> None:
    bed = RoundsBed()
    begun = [10 * S + number * 25 * MS for number in range(200)]
    assert [bed.take(at) for at in begun] == [at + S for at in begun]


def test_volumes_that_write_at_one_moment_take_turns() -> None:
    bed = RoundsBed()
    assert [bed.take(10 * S) for _ in range(100)] == [
        11 * S + number * 20 * MS for number in range(100)
    ]


def test_none_waits_for_more_than_three_seconds_beyond_its_own() -> None:
    bed = RoundsBed()
    times = [bed.take(10 * S) for _ in range(400)]
    assert max(times) == 14 * S
    assert bed.take(11 * S) == 14 * S + 20 * MS


def test_nobody_waits_for_a_turn_when_half_of_the_map_is_taken() -> None:
    bed = RoundsBed()
    for _ in range(100):
        bed.take(10 * S, unapplied=49)
    assert bed.take(10 * S, unapplied=50) == 11 * S
    assert bed.take(10 * S, unapplied=49) == 11 * S + 100 * 20 * MS


def test_a_turn_that_was_not_needed_goes_to_the_next() -> None:
    bed = RoundsBed()
    for _ in range(100):
        bed.take(10 * S)
    for _ in range(40):
        bed.give_back()
    assert bed.take(10 * S) == 11 * S + 60 * 20 * MS
