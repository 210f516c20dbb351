"""Schedules of grants, gates and what waits behind them, on the compiled core; see ``test_core_schedules``."""

from __future__ import annotations

import pytest

from tests.sim.test_schedules import (
    l2_a_change_of_one_peer_leaves_the_others_alone,
    s6_a_granter_restarts_and_takes_over,
    s12_a_primary_that_gives_back_is_not,
    s12_a_primary_that_gives_nothing_back_is_waited_for,
)
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V
from tests.support.without_rules import with_links_reset_by_every_line


def test_s6_a_granter_that_restarts_has_promised_everybody() -> None:
    """b granted a, dies, is back at once and named primary; a is cut off and serves on what b promised before.

    Rule: for one hold-off after its start a core counts as having promised everybody.
    """
    with compiled_stage(2, 1) as s:
        s6_a_granter_restarts_and_takes_over(s)
        s.open("a-b", "a-m")
        s.ends_well()


def test_s12_a_right_counts_from_the_ask() -> None:
    """b grants, and its answer is under way for almost as long as its promise runs; b is named primary meanwhile.

    Rule: a right runs from the stamp of its own ask, however late the answer.
    """
    with compiled_stage(2, 1) as s:
        s.cut("a-m")
        s.cut_control(s.a, s.b)
        s.cut_cores(s.b, s.a)
        s.run(0.3)
        s.move(s.b)
        s.run(0.6)
        s.cut_cores(s.a, s.b)
        s.open_cores(s.b, s.a)
        s.until(lambda: s.serves(s.b))
        s.run(1)
        s.open("a-b", "a-m")
        s.ends_well()


def test_s12_a_promise_that_is_not_given_back_is_waited_for() -> None:
    """a is cut off with the grants of both, and b is named at once.

    Rule: b opens when the longest promise that anybody named has run out.
    """
    with compiled_stage(3, 2) as s:
        s12_a_primary_that_gives_nothing_back_is_waited_for(s)
        s.open("a-b", "a-c", "a-m")
        s.ends_well()


def test_s12_a_promise_that_is_given_back_is_not() -> None:
    """The same with a reachable: b serves long before a grant has run out.

    Rule: a gate that is closed for its term gives its rights back, by a release with a stamp.
    """
    with compiled_stage(3, 2) as s:
        s12_a_primary_that_gives_back_is_not(s)
        s.ends_well()


def test_s26_a_command_that_is_held_dies_with_its_connection() -> None:
    """a's grant lapses, a write is held, its client goes and comes again and writes twice; then the grant is back.

    Rule: what has no LSN is taken back when its connection ends.
    """
    with compiled_stage(2, 1) as s:
        s.client.quiet = True
        s.run(0.5)
        s.cut_cores(s.b, s.a)
        s.until(lambda: not s.serves(s.a))
        s.write(s.a, 0)
        s.run(0.1)
        assert s.plane(s.a).direct.abort_all() == 0
        s.open_cores(s.b, s.a)
        s.written(s.a, 0)
        value = s.written(s.a, 0)
        s.run(2)
        assert s.last_read(s.a, 0) == value
        s.ends_well()


def test_l2_a_newer_line_resets_only_what_moved() -> None:
    """c goes and comes back: b's link and a's term go on.

    Rule: a newer endpoint version of one epoch resets what its own address says, nothing else.
    """
    with compiled_stage(3, 2) as s:
        opened = s.heard("gate.opened", volume=V)
        l2_a_change_of_one_peer_leaves_the_others_alone(s)
        assert s.heard("gate.opened", volume=V) <= opened
        s.ends_well()


def l2_a_copy_goes_on_while_another_peer_comes_and_goes(s: CompiledStage) -> None:
    """b's disk was replaced, and it is copied whole and slowly; meanwhile c goes, is asked out, and comes back."""
    s.fill_log(s.a)
    s.fill_volume(s.a)
    s.world.wipe_node(s.b)
    s.until(lambda: s.in_sync == {s.a, s.c})
    s.forget()
    s.slow_disk(s.b, 0.3)
    s.world.start_node(s.b)
    s.until(lambda: s.heard(f"{s.a}: rebuild.started") > 0)
    s.world.kill_node(s.c)
    s.until(lambda: s.in_sync == {s.a})
    s.world.start_node(s.c)
    s.until(lambda: s.in_sync == {s.a, s.c})
    s.works_again(s.b)
    s.until(lambda: s.in_sync == {s.a, s.b, s.c}, seconds=90)
    to_b = next(m.replica_id for m in s.line.members if m.node_id == s.b)
    assert s.heard(f"{s.a}: rebuild.started") == 1
    assert s.heard("peer.lost", replica=to_b) == 0
    s.ends_well()


def test_l2_a_copy_is_not_begun_anew_by_a_line_about_another_peer() -> None:
    """Rule: as above; what a peer was copied counts as long as its own link stands."""
    with compiled_stage(3, 1) as s:
        l2_a_copy_goes_on_while_another_peer_comes_and_goes(s)


def test_l2_with_links_that_every_line_resets_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with compiled_stage(3, 1) as s:
        with_links_reset_by_every_line(monkeypatch)
        with pytest.raises(AssertionError):
            l2_a_copy_goes_on_while_another_peer_comes_and_goes(s)
