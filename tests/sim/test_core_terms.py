"""Schedules of the table of terms, on the compiled core; see ``test_core_schedules``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sparrow.base.ids import NodeId
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

#: One more than a table has rows (``TERMS_MAX`` of ``_native/volume.pxd``).
TERMS = 49


@pytest.fixture
def trio() -> Iterator[CompiledStage]:
    """Nobody writes but the test."""
    with compiled_stage(3, 1) as built:
        built.client.quiet = True
        built.run(1)
        yield built


def rows(s: CompiledStage, name: NodeId) -> list[tuple[int, int, int]]:
    """Epoch, start and first LSN of every term that a replica knows."""
    return s.plane(name).terms(V)


def lost(s: CompiledStage, name: NodeId) -> None:
    """A follower dies and is shrunk out."""
    s.world.kill_node(name)
    s.until(lambda: name not in s.in_sync)


def led_by(s: CompiledStage, name: NodeId) -> None:
    """It takes over as planned, and whoever else is up follows."""
    s.move(name)
    s.until(lambda: s.serves(name))
    all_follow(s)


def back(s: CompiledStage, name: NodeId) -> None:
    """It returns, and what is said of that is kept."""
    s.forget()
    s.world.start_node(name)
    all_follow(s)


def all_follow(s: CompiledStage) -> None:
    s.until(lambda: s.in_sync == set(s.world.nodes), seconds=60)


def copies(s: CompiledStage, name: NodeId, *, kind: str) -> int:
    """How often this replica was made ready for a copy of this kind, in what is kept of the history."""
    return s.heard(f"{name}: rebuild.started", kind=kind)


def test_s30_who_was_away_for_more_terms_than_a_table_holds_is_copied(trio: CompiledStage) -> None:
    """c is away while a and b take turns, until no term is left in their tables that c has heard of.

    Rule: without a common row nobody knows what two logs have in common, and the replica is rebuilt.
    """
    s = trio
    lost(s, s.c)
    for turn in range(TERMS):
        led_by(s, s.a if turn % 2 else s.b)
    known = rows(s, s.b)
    assert len(known) == TERMS - 1
    assert known[0][0] > 1
    back(s, s.c)
    assert copies(s, s.c, kind="full") == 1
    assert rows(s, s.c) == known
    s.ends_well()


@pytest.mark.parametrize("wiped", [True, False])
def test_s30_a_copy_brings_the_table_of_terms(trio: CompiledStage, *, wiped: bool) -> None:
    """c is copied to in b's term, in which nothing is written afterwards; it starts again, and later leads.

    Rule: who is rebuilt has the table of whom it is copied from, and none of its own.
    """
    s = trio
    lost(s, s.c)
    led_by(s, s.b)
    s.fill_log(s.b)
    if wiped:
        s.world.wipe_node(s.c)
    back(s, s.c)
    assert copies(s, s.c, kind="full" if wiped else "delta") == 1
    assert rows(s, s.c) == rows(s, s.b)
    lost(s, s.c)
    back(s, s.c)
    led_by(s, s.c)
    assert s.heard("rebuild.started") == 0
    assert rows(s, s.a) == rows(s, s.b) == rows(s, s.c)
    s.ends_well()


def test_s30_the_superblock_knows_the_terms_that_the_log_has_let_go_of(
    trio: CompiledStage,
) -> None:
    """b leads, and its log has gone round when it starts again; c, away since the term before, is back.

    Rule: rows up to the checkpoint are in the superblock. So b knows where c's log left its own, and copies no more
    than what changed since.
    """
    s = trio
    lost(s, s.c)
    led_by(s, s.b)
    s.fill_log(s.b)
    known = rows(s, s.b)
    lost(s, s.a)
    s.world.kill_node(s.b)
    s.world.start_node(s.b)
    s.until(lambda: s.serves(s.b), seconds=30)
    assert rows(s, s.b)[: len(known)] == known
    back(s, s.c)
    assert copies(s, s.c, kind="delta") == 1
    s.ends_well()


def test_s30_a_term_whose_entries_are_cut_leaves_no_row(trio: CompiledStage) -> None:
    """a and c have two writes that b never gets, and a the start of another term; b takes over and a is cut. a leads
    again, and c, which was away, joins where they really part.

    Rule: a cut takes the rows of what it cuts. One that stayed would have the term before go on to where it began.
    """
    s = trio
    s.written(s.a, 0)
    s.until(lambda: s.look(s.b).durable == s.look(s.c).durable == s.look(s.a).head)
    shared = s.look(s.a).head
    s.cut_cores(s.a, s.b)
    for page in (1, 2):
        s.write(s.a, page)
        s.turn(s.a)
    s.until(lambda: s.look(s.c).durable == shared + 2)
    s.world.kill_node(s.c)
    s.world.kill_node(s.a)
    s.world.start_node(s.a)
    s.until(lambda: V in s.plane(s.a)._volumes and s.look(s.a).durable == shared + 3)
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b), seconds=30)
    s.open_cores(s.a, s.b)
    back(s, s.a)
    assert s.heard(f"{s.a}: wal.suffix_cut") == 1
    led_by(s, s.a)
    back(s, s.c)
    assert s.heard(f"{s.c}: wal.suffix_cut", from_lsn=shared + 1) == 1
    assert s.heard("rebuild.started") == 0
    assert rows(s, s.a) == rows(s, s.b) == rows(s, s.c)
    s.ends_well()


def test_s30_an_epoch_in_which_nothing_was_logged_is_in_no_table(trio: CompiledStage) -> None:
    """b is named and hears of nobody but the master; before it has logged anything c is named in its place."""
    s = trio
    s.cut("a-b", "b-c")
    s.move(s.b)
    s.until(lambda: s.look(s.b).primary)
    s.move(s.c)
    s.until(lambda: s.serves(s.c), seconds=30)
    s.open("a-b", "b-c")
    s.until(s.world.all_healthy, seconds=60)
    assert [epoch for epoch, _, _ in rows(s, s.c)] == [1, 3]
    assert rows(s, s.a) == rows(s, s.b) == rows(s, s.c)
    s.ends_well()
