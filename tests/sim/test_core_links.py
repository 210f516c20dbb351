"""Schedules of sockets between cores, on the compiled core; see ``test_core_schedules``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparrow.base.constants import PAGE_BYTES
from sparrow.sim.compiled.client import RUN_MAX
from tests.support.compiled import CompiledStage, compiled_stage

#: Less than an acknowledgement, and less than an ask for a grant.
NARROW_BYTES = 48


@pytest.fixture
def pair() -> Iterator[CompiledStage]:
    """Nobody writes but the test."""
    with compiled_stage(2, 1) as built:
        built.client.quiet = True
        built.run(1)
        built.forget()
        yield built


def no_link_was_lost(s: CompiledStage) -> None:
    assert s.in_sync == {s.a, s.b}
    assert s.heard("peer.lost") == 0


def test_s31_batches_that_are_logged_while_a_send_waits_leave_behind_it(
    pair: CompiledStage,
) -> None:
    """b reads nothing for a moment, and a's socket is full while it logs on, batch after batch. Then b reads.

    Rule: one send is outstanding on a socket; what is logged meanwhile joins the next one.
    """
    s = pair
    s.cluster.room.narrow(2 * RUN_MAX * PAGE_BYTES)
    s.cut_cores(s.a, s.b)
    answers = []
    for turn in range(24):
        answers.append(s.client.write(s.plane(s.a), turn % 2 * 128, 4))
        s.turn(s.a)
    assert s.look(s.b).head < s.look(s.a).head - 20
    s.open_cores(s.a, s.b)
    s.until(lambda: all(one is not None and one.done() for one in answers))
    no_link_was_lost(s)
    s.ends_well()


def test_s31_an_acknowledgement_waits_for_the_one_before_it(pair: CompiledStage) -> None:
    """a reads nothing for a moment: half an acknowledgement of b's is in the socket, and more becomes durable."""
    s = pair
    s.cluster.room.narrow(NARROW_BYTES)
    s.cut_cores(s.b, s.a)
    answers = []
    for page in range(4):
        answers.append(s.write(s.a, page)[1])
        s.turn(s.a)
        s.until(lambda: s.look(s.b).durable == s.look(s.a).head)
    s.open_cores(s.b, s.a)
    s.until(lambda: all(one.done() for one in answers))
    no_link_was_lost(s)
    s.ends_well()


def test_s31_a_right_is_given_back_behind_the_ask_that_is_under_way(pair: CompiledStage) -> None:
    """Half of a's ask for a grant is in the socket when b is named, and a gives back what it has."""
    s = pair
    s.cluster.room.narrow(NARROW_BYTES)
    s.cut_cores(s.a, s.b)
    s.run(0.8)
    s.move(s.b)
    s.until(lambda: not s.serves(s.a))
    s.run(0.1)
    s.open_cores(s.a, s.b)
    s.until(lambda: s.serves(s.b))
    s.ends_well()
