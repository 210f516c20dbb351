"""Schedules of pools that run full, on the compiled core; see ``test_core_schedules``."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Final

import pytest

from sparrow.dataplane.native.room import HEADROOM_EVERY_S
from sparrow.node.peers.leaving import LeavingPeers
from sparrow.sim.compiled.client import RUN_MAX
from sparrow.sim.compiled.content import page_of
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V, ends_badly

#: Pages that the clients of a stage leave alone.
OWN_PAGES: Final = 64
FRESH_PAGES: Final = 160
#: A count of the room, and the word of it to the primary.
COUNTED_S: Final = 2.5 * HEADROOM_EVERY_S


@pytest.fixture
def pair() -> Iterator[CompiledStage]:
    """Nobody writes but the test. Of what it writes the first eight pages have their place."""
    with compiled_stage(2, 1) as built:
        built.client.quiet = True
        built.run(1)
        assert done(built, "write", OWN_PAGES, RUN_MAX) == 0
        built.until(lambda: all_applied(built))
        yield built


def done(s: CompiledStage, kind: str, first: int, count: int) -> int:
    """How a request to the primary ends."""
    pages = range(first, first + count)
    data = b"".join(page_of(page, 1) for page in pages) if kind == "write" else b""
    answer = s.plane(s.a).submit(V, kind, first, count, data)
    assert answer is not None
    s.until(answer.done)
    return answer.result().rc


def all_applied(s: CompiledStage) -> bool:
    insides = [s.look(name) for name in (s.a, s.b)]
    return all(one.applied == one.head == s.look(s.a).head for one in insides)


# ---------------------------------------------------------------- L7: foreseen


@pytest.mark.parametrize("full", ["primary", "follower"])
def test_l7_what_has_no_place_is_refused_before_it_is_logged(
    pair: CompiledStage, full: str
) -> None:
    """Somebody else's files leave next to nothing of one pool.

    Rule: acks carry the room of a pool, and below the reserve of any replica needed what has no place is refused.
    Overwrites and zeros go on, and everything that commits is applied everywhere.
    """
    s = pair
    name = s.a if full == "primary" else s.b
    s.crowd(name, 4)
    s.run(COUNTED_S)
    assert done(s, "write", FRESH_PAGES, RUN_MAX) == -errno.ENOSPC
    assert done(s, "write", OWN_PAGES, RUN_MAX) == 0
    assert done(s, "zero", OWN_PAGES, 1) == 0
    assert done(s, "write", OWN_PAGES, RUN_MAX) == -errno.ENOSPC, "its place was given back"
    assert done(s, "write", OWN_PAGES + 1, RUN_MAX - 1) == 0
    s.until(lambda: all_applied(s))
    assert s.in_sync == {s.a, s.b}
    s.works_again(name)
    s.run(COUNTED_S)
    assert done(s, "write", FRESH_PAGES, RUN_MAX) == 0
    s.until(lambda: all_applied(s))
    s.ends_well()


# ---------------------------------------------------------------- L7: sudden


def goes_on_when_a_follower_can_apply_nothing(s: CompiledStage) -> None:
    """b's pool ends under what has committed: nothing is applied there any more, until its log is full as well."""
    assert done(s, "write", FRESH_PAGES, RUN_MAX) == 0
    assert s.look(s.b).applied < s.look(s.b).durable
    s.crowd(s.b, 0)
    s.until(lambda: s.look(s.a).applied == s.look(s.a).head)
    s.run(COUNTED_S)
    assert s.look(s.b).applied < s.look(s.b).commit
    assert done(s, "write", FRESH_PAGES + RUN_MAX, 1) == -errno.ENOSPC
    assert s.in_sync == {s.a, s.b}
    s.forget()
    while s.in_sync == {s.a, s.b}:
        assert done(s, "write", OWN_PAGES, RUN_MAX) == 0
    assert s.in_sync == {s.a}
    assert s.heard("line.minted", reason="its pool is full") == 1
    for _ in range(10):
        assert done(s, "write", OWN_PAGES, RUN_MAX) == 0
    s.works_again(s.b)
    s.until(lambda: s.in_sync == {s.a, s.b}, seconds=60)
    s.until(lambda: all_applied(s))
    s.ends_well()


def test_l7_a_follower_that_can_apply_nothing_is_asked_out(pair: CompiledStage) -> None:
    """Rule: it says so, and leaves the set with this cause when it holds commits back."""
    goes_on_when_a_follower_can_apply_nothing(pair)


def test_l7_waited_for_it_stops_every_writer(
    pair: CompiledStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LeavingPeers, "_ask_out_full", lambda *_args: None)
    with ends_badly():
        goes_on_when_a_follower_can_apply_nothing(pair)
