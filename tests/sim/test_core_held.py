"""Schedules of commands that cannot be carried out now, on the compiled core; see ``test_core_schedules``.

A command is held as long as what it lacks may come back, never longer than an initiator is patient, and then gets the
path error, so that it is sent another way. The path error is -ESTALE here; frontends have their own words for it.
"""

from __future__ import annotations

import errno

import pytest

from sparrow.authority.evidence import PEER_HEARD_S
from sparrow.base.constants import FENCE_HOLD_S
from sparrow.frontends.nvme.subsystem import AnaState
from sparrow.node.units import unit_state
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import ends_badly

#: Between the moments at which a test looks, and what a turn of the core takes.
SLACK_S = 0.1
#: A word of the other side is heard and acted on within this: asks for grants are a quarter of their length apart.
AT_ONCE_S = 0.6


def refused_for_its_path(s: CompiledStage, page: int) -> float:
    """A write on a is not carried out and gets the path error; how long it was held."""
    _value, answer = s.write(s.a, page)
    took = s.until(answer.done)
    assert answer.result().rc == -errno.ESTALE
    return took


# ---------------------------------------------------------------- L8


def l8_a_path_that_lost_its_right_lets_its_client_go(s: CompiledStage) -> None:
    """a hears nobody any more, its grant lapses, and nobody tells it what became of the volume."""
    s.client.quiet = True
    s.run(0.5)
    s.cut("a-b", "a-m")
    s.until(lambda: not s.serves(s.a))
    assert refused_for_its_path(s, 0) < FENCE_HOLD_S + SLACK_S
    s.until(lambda: s.serves(s.b))
    value = s.written(s.b, 0)
    s.open("a-b", "a-m")
    s.run(2)
    assert s.last_read(s.b, 0) == value
    s.ends_well()


def test_l8_a_path_that_lost_its_right_lets_its_client_go() -> None:
    """Rule: a command is held for 1.5 s, less than any initiator waits before it asks what is wrong."""
    with compiled_stage(2, 1) as s:
        l8_a_path_that_lost_its_right_lets_its_client_go(s)


def test_l8_with_a_hold_of_five_seconds_it_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparrow.dataplane.machine.FENCE_HOLD_S", 5.0)
    with compiled_stage(2, 1) as s, ends_badly():
        l8_a_path_that_lost_its_right_lets_its_client_go(s)


def test_l8_what_is_held_is_done_when_the_grant_is_back() -> None:
    """b's grant comes a moment too late: clients notice a pause, and no path is given up.

    Rule: what finds the gate closed for want of a grant is held, not refused.
    """
    with compiled_stage(2, 1) as s:
        s.client.quiet = True
        s.run(0.5)
        s.cut("a-m")
        s.cut_cores(s.b, s.a)
        s.until(lambda: not s.serves(s.a))
        value, answer = s.write(s.a, 0)
        s.run(0.3)
        assert not answer.done()
        s.open_cores(s.b, s.a)
        s.open("a-m")
        s.until(answer.done)
        assert answer.result().rc == 0
        assert s.last_read(s.a, 0) == value
        s.ends_well()


def test_l8_who_hears_of_a_newer_line_holds_nothing() -> None:
    """a's grant has lapsed and a write is held when the master tells it of b's line.

    Rule: a gate that was closed for its term does not return; what waited for it gets the path error now.
    """
    with compiled_stage(2, 1) as s:
        s.client.quiet = True
        s.run(0.5)
        s.cut("a-b")
        s.until(lambda: not s.serves(s.a))
        _value, answer = s.write(s.a, 0)
        s.move(s.b)
        assert s.until(answer.done) < AT_ONCE_S
        assert answer.result().rc == -errno.ESTALE
        _value, answer = s.write(s.a, 1)
        s.turn(s.a)
        assert answer.done()
        assert answer.result().rc == -errno.ESTALE
        s.open("a-b")
        s.ends_well()


def test_l8_who_is_refused_a_grant_for_a_newer_term_holds_nothing() -> None:
    """The same where only b's core says so: a hears neither the master nor b's control side.

    Rule: an answer that names a newer epoch closes the gate for its term.
    """
    with compiled_stage(2, 1) as s:
        s.client.quiet = True
        s.run(0.5)
        s.cut("a-m")
        s.cut_control(s.a, s.b)
        s.cut_cores(s.b, s.a)
        s.until(lambda: not s.serves(s.a))
        _value, answer = s.write(s.a, 0)
        s.move(s.b)
        s.until(lambda: s.look(s.b).promised_epoch == 2)
        s.open_cores(s.b, s.a)
        assert s.until(answer.done) < AT_ONCE_S
        assert answer.result().rc == -errno.ESTALE
        s.open("a-b", "a-m")
        s.ends_well()


def l8_a_standby_of_a_lost_primary_is_worth_another_look(s: CompiledStage) -> None:
    """a is gone and b, which is about to follow, is asked about its path all the time.

    A host that is told of a standby looks again after seconds; one that is told of a change looks at once.
    """
    s.client.quiet = True
    s.run(0.5)
    assert s.shown(s.a) is AnaState.OPTIMIZED
    assert s.shown(s.b) is AnaState.INACCESSIBLE
    s.cut("a-b", "a-m")
    # A silence of a third of a second is none yet; from then on b is about to be something else.
    s.until(lambda: s.shown(s.b) is not AnaState.INACCESSIBLE, seconds=PEER_HEARD_S + SLACK_S)
    while not s.serves(s.b):
        assert s.shown(s.b) is AnaState.CHANGE
        assert (s.shown(s.a) is AnaState.OPTIMIZED) is s.serves(s.a)
        s.run(0.05)
    assert s.shown(s.b) is AnaState.OPTIMIZED
    s.open("a-b", "a-m")
    s.ends_well()


def test_l8_a_standby_of_a_lost_primary_is_worth_another_look() -> None:
    """Rule: a standby is told of only while the primary is heard; and only an open gate is called optimized."""
    with compiled_stage(2, 1) as s:
        l8_a_standby_of_a_lost_primary_is_worth_another_look(s)


def test_l8_a_standby_whoever_lives_sends_hosts_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "sparrow.node.nvme.views.unit_state",
        lambda volume, *, gate_open, **_: unit_state(
            volume, gate_open=gate_open, primary_lives=True
        ),
    )
    with compiled_stage(2, 1) as s, ends_badly():
        l8_a_standby_of_a_lost_primary_is_worth_another_look(s)


# ---------------------------------------------------------------- L16


def below_the_minimum(s: CompiledStage) -> None:
    """Of {a,b} with a minimum of two b came and went: a is alone, b grants it, and nobody can take b in."""
    s.client.quiet = True
    s.world.kill_node(s.c)
    s.until(lambda: s.in_sync == {s.a, s.b})
    s.run(1)
    s.world.kill_node(s.b)
    s.until(lambda: s.in_sync == {s.a})
    s.cut("a-m")
    s.world.start_node(s.b)
    # The last grant of the process that died has run out: what is served now is by those of its successor.
    s.run(2)
    s.until(lambda: s.serves(s.a))


def test_l16_below_the_minimum_writes_get_the_path_error_and_reads_go_on() -> None:
    """Rule: a write that has too few replicas is held like one that has no grant, and then sent another way.

    An error of the medium would make file systems read-only, for something that is over in a moment.
    """
    with compiled_stage(3, 2) as s:
        s.client.quiet = True
        value = s.written(s.a, 0)
        below_the_minimum(s)
        held = refused_for_its_path(s, 0)
        assert FENCE_HOLD_S - SLACK_S < held < FENCE_HOLD_S + SLACK_S
        assert s.shown(s.a) is AnaState.CHANGE
        assert s.last_read(s.a, 0) == value
        s.open("a-m")
        s.ends_well()


def test_l16_a_replica_that_is_back_in_time_costs_a_pause() -> None:
    """Rule: what is held for want of a replica is done when there is one."""
    with compiled_stage(3, 2) as s:
        below_the_minimum(s)
        value, answer = s.write(s.a, 0)
        s.run(0.2)
        assert not answer.done()
        s.open("a-m")
        s.until(answer.done)
        assert answer.result().rc == 0
        assert s.last_read(s.a, 0) == value
        s.ends_well()


def test_l16_what_was_logged_before_is_answered_in_time_too() -> None:
    """Writes and a change of reservations are under way to a slow b when it dies; a is below the minimum with them.

    Rule: what has an LSN and cannot commit gets the path error after the hold, counted from when it
    could not: that b's grant lapses a second later begins no second hold.
    """
    with compiled_stage(3, 2) as s:
        s.client.quiet = True
        s.world.kill_node(s.c)
        s.until(lambda: s.in_sync == {s.a, s.b})
        s.run(1)
        s.slow_disk(s.b, 5.0)
        answers = [s.write(s.a, page)[1] for page in range(4)]
        change = s.client.fencing.change(s.plane(s.a), (0, 1))
        waiting = [*answers, s.node(s.a).process.spawn(change, "change")]
        s.run(0.01)
        s.world.kill_node(s.b)
        s.until(lambda: s.in_sync == {s.a})
        assert not any(one.done() for one in waiting)
        took = s.until(lambda: all(one.done() for one in waiting))
        assert took < FENCE_HOLD_S + SLACK_S
        assert [answer.result().rc for answer in answers] == [-errno.ESTALE] * 4
        s.ends_well()
