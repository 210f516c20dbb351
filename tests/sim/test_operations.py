"""Histories around restarts of the master and the wishes of people, whole and with a rule taken away.

As in ``test_schedules``: a history ends well or raises. Names are those of docs/claims.md where they have one there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority import decide, mint
from sparrow.authority.delivery import Delivery
from sparrow.authority.invariants import first_lineage
from sparrow.authority.types import Line
from sparrow.base.errors import TimedOut
from sparrow.lifecycle.plans import replacement
from sparrow.node import events as ev
from sparrow.node.ask_commands import AskCommands
from sparrow.node.asks import ask_until_answered
from sparrow.node.volume import Volume
from sparrow.rpc.messages import AskIntent, AskRequest
from tests.support.stage import Stage, V, ends_badly, stage


def s5d_the_recorded_line_of_a_replaced_master_ends_nothing(s: Stage) -> None:
    """a's Grow of b is minted and its answer lost; the master restarts. Asked again, it shows the line of its
    predecessor, which a may not take from an answer: b stays needed until the line comes down the stream."""
    s.to_one()
    lose_the_answer_and_the_master(s)
    s.world.start_node(s.b)
    s.until(lambda: s.in_sync == {s.a, s.b})
    s.until(lambda: s.heard(f"{s.a}: line.refused") > 0)
    s.run(1)
    s.cut("a-b")
    s.run(5)
    s.open("a-b")
    lend_an_ear(s)
    s.until(s.world.all_healthy, seconds=30)


def lose_the_answer_and_the_master(s: Stage) -> None:
    """The next Grow of a is applied, nobody hears of it, the master restarts; a gets heartbeats through, no stream."""
    node = s.node(s.a)
    master, send = node.master, node.master.ask
    asked: list[AskRequest] = []

    async def deaf(*_args: Any) -> AsyncGenerator[Any, None]:
        await asyncio.sleep(3600)
        yield None

    async def ask(request: AskRequest, *, timeout_s: float) -> Any:
        if asked and node.link.generation < 2:
            raise TimedOut("a heartbeat is answered first")
        if request.intent is not AskIntent.GROW_IN_SYNC or asked:
            return await send(request, timeout_s=timeout_s)
        asked.append(request)
        s.cut("m>a")
        with suppress(TimedOut):
            await send(request, timeout_s=timeout_s)
        master.subscribe = deaf  # type: ignore[method-assign]
        s.world.kill_master()
        s.world.start_master()
        # Not before the connection with the line in it was given up.
        s.world.loop.at(5.0, s.open, "m>a")
        raise TimedOut("lost")

    master.ask = ask  # type: ignore[method-assign]


def lend_an_ear(s: Stage) -> None:
    """a may subscribe again: its process is restarted, as an operator would."""
    s.world.kill_node(s.a)
    s.world.start_node(s.a)


def with_any_refusal_for_an_answer(patch: pytest.MonkeyPatch) -> None:
    """S5: what the master recorded was refused here, and the ask is over all the same."""

    async def ask_once(
        self: AskCommands, intent: Any, replica: Any, basis: Any, **more: Any
    ) -> Any:
        request = AskRequest(
            volume_id=self._term.volume_id,
            intent=AskIntent(intent),
            replica_id=replica,
            asker=self._term.replica,
            basis=basis,
            **more,
        )
        answer = await ask_until_answered(
            self._term.around.master,
            request,
            still_wanted=lambda: not self._term.ended() and self._term.owner.line.lineage == basis,
            log=self._term.log,
        )
        if answer is None:
            return None
        told = answer if isinstance(answer, Line) else answer.recorded
        if told is not None:
            await self._term.owner.line_from_ask(told)
        code = None if isinstance(answer, Line) else answer.code
        return ev.AskEnded(intent=intent, replica=replica, basis=basis, refusal=code)

    patch.setattr(AskCommands, "ask", ask_once)


# ---------------------------------------------------------------- D8, D39: deleted, and made again


def d39_a_node_that_slept_through_a_deletion_gives_nothing_back(s: Stage) -> None:
    """b is written off, the volume deleted and made anew on the others; b comes back with the disk it had."""
    s.until(lambda: s.acked > 20)
    old = s.line.lineage.epoch
    s.world.kill_node(s.b, silently=True)
    s.run(3)
    s.delete()
    s.until(lambda: s.line.retired)
    s.run(3)
    assert s.holders == [s.b]
    s.operator("lost", s.b)
    s.until(lambda: V not in s.world.disk.volumes)
    s.create()
    s.until(lambda: not s.line.retired and s.world.all_healthy(), seconds=30)
    assert s.line.lineage.epoch == old + 1
    before = s.acked
    s.world.start_node(s.b)
    s.until(lambda: s.b not in s.holders, seconds=30)
    s.until(lambda: s.acked > before + 5)
    assert s.world.all_healthy()


def d8_a_volume_made_again_goes_on_above_its_tombstone(s: Stage) -> None:
    """Three lives of one name, with a restart of the master in each."""
    for life in (2, 3, 4):
        s.until(s.world.all_healthy)
        s.delete()
        s.until(lambda: s.line.retired)
        s.world.kill_master()
        s.world.start_master()
        s.until(lambda: V not in s.world.disk.volumes, seconds=30)
        assert s.holders == []
        s.create()
        s.until(lambda: not s.line.retired, seconds=30)
        assert s.line.lineage.epoch == life


# ---------------------------------------------------------------- drained, lost, replaced


def a_drain_goes_on_through_a_death_of_the_master_at_every_step(s: Stage) -> None:
    """Each boot of the master lives for one change of its store, and dies before or after the next is durable."""
    s.operator("draining", s.b)
    s.until(lambda: s.b in s.world.disk.nodes, look_s=0.0005)
    deaths, began = 0, s.world.loop.now
    while s.b in s.holders or s.moving:
        master = s.world.master
        if master is None or not master.process.alive:
            s.world.start_master()
            deaths += 1
        elif not master.store.die_in_put:
            master.store.die_in_put = "after" if deaths % 2 else "before"
        s.run(0.05)
        assert len(s.line.in_sync) >= 2
        assert s.world.loop.now < began + 120
    assert deaths >= 4
    s.world.start_master()
    s.until(s.world.all_healthy, seconds=30)


def a_lost_node_is_replaced_and_comes_back_empty(s: Stage) -> None:
    """The primary's machine is gone for good; years later somebody finds it and switches it on."""
    s.world.kill_node(s.a, silently=True)
    s.until(lambda: s.serves(s.b), seconds=30)
    s.operator("lost", s.a)
    s.until(lambda: s.world.all_healthy() and len(s.in_sync) == 2, seconds=60)
    assert s.a not in s.in_sync
    s.world.start_node(s.a)
    s.until(lambda: s.a not in s.holders, seconds=30)
    assert s.world.all_healthy()


def s17_a_wiped_follower_is_taken_in_under_its_new_name(s: Stage) -> None:
    """b's disk is replaced while it is in sync: what it reports then is a stranger, and is filled from the start."""
    before = next(one.uuid for one in s.line.members if one.node_id == s.b)
    s.world.wipe_node(s.b)
    s.world.start_node(s.b)
    s.until(lambda: s.in_sync == {s.a})
    s.until(s.world.all_healthy, seconds=30)
    after = next(one.uuid for one in s.line.members if one.node_id == s.b)
    assert after != before


# ---------------------------------------------------------------- L1, L4


def l1_a_master_that_is_away_holds_up_nobody(s: Stage) -> None:
    s.world.kill_master()
    s.run(2)
    before = s.acked
    s.run(20)
    assert s.acked > before + 50
    s.world.start_master()
    s.until(s.world.all_healthy)
    assert s.line.lineage.epoch == 1


def l4_the_last_one_standing_is_not_the_only_heir(s: Stage) -> None:
    """c is lost, then b; a alone is below the minimum and commits nothing. a dies: b has every commit there is."""
    s.world.kill_node(s.c)
    s.until(lambda: s.in_sync == {s.a, s.b})
    s.world.kill_node(s.b)
    s.until(lambda: s.in_sync == {s.a}, seconds=30)
    s.run(1)
    before = s.acked
    s.run(3)
    assert s.acked == before
    s.world.kill_node(s.a)
    s.world.start_node(s.b)
    s.world.start_node(s.c)
    s.until(lambda: s.acked > before + 5, seconds=40)


# ---------------------------------------------------------------- the rules, taken away


def without_tombstones_for_those_who_return(patch: pytest.MonkeyPatch) -> None:
    """D39: whoever was not there when a volume was deleted keeps what it has."""
    removals = Delivery._removals

    def only_while_deleting(self: Delivery, tombstone: Line, desired: Any, *rest: Any) -> Any:
        if desired is None:
            return iter(())
        return removals(self, tombstone, desired, *rest)

    patch.setattr(Delivery, "_removals", only_while_deleting)
    patch.setattr("sparrow.master.reconciler.with_strays", lambda _snapshot: None)


def with_the_first_epoch_again(patch: pytest.MonkeyPatch) -> None:
    """D8: a tombstone is no reason to go on counting."""
    patch.setattr(mint, "_next_epoch", lambda _old: first_lineage(0))


def with_shrinking_before_growing(patch: pytest.MonkeyPatch) -> None:
    """The replica that leaves is taken out as soon as its successor was chosen."""

    def advance(view: Any, desired: Any, line: Line, leaving: Any) -> Any:
        if leaving.replica_id in line.in_sync and leaving.replica_id != line.primary:
            return replacement._take_out(view, replace(line, min_in_sync=1), leaving)
        return kept(view, desired, line, leaving)

    kept = replacement._advance
    patch.setattr(replacement, "_advance", advance)
    patch.setattr(replacement, "may_shrink", lambda _line: True)


def without_replacements(patch: pytest.MonkeyPatch) -> None:
    """Nothing is made anew for what was lost."""
    patch.setattr("sparrow.master.reconciler.wants_work", lambda *_args: False)


def without_strangers_as_members(patch: pytest.MonkeyPatch) -> None:
    """S17: other files in a member's place are never taken in."""
    patch.setattr(decide, "_replaces_member", lambda _slot: False)


def with_a_master_needed_to_serve(patch: pytest.MonkeyPatch) -> None:
    """L1: whoever does not hear the master stops."""
    changed = Volume.control_changed

    def stop(self: Volume, *, live: bool) -> None:
        changed(self, live=live)
        if not live and self.primacy is not None:
            self.stepped_down("the master is away")
            self.primacy.over = True

    patch.setattr(Volume, "control_changed", stop)


def without_heirs(patch: pytest.MonkeyPatch) -> None:
    """L4: who leaves below the minimum is forgotten like anybody else."""
    shrink = mint._shrink

    def bare(*args: Any) -> Line:
        return replace(shrink(*args), eligible=())

    patch.setattr(mint, "_shrink", bare)


Rule = Callable[[pytest.MonkeyPatch], None]
SCHEDULES: dict[Callable[[Stage], None], tuple[dict[str, int], Rule]] = {
    s5d_the_recorded_line_of_a_replaced_master_ends_nothing: (
        {"rf": 2, "min_in_sync": 1},
        with_any_refusal_for_an_answer,
    ),
    d39_a_node_that_slept_through_a_deletion_gives_nothing_back: (
        {"rf": 2, "nodes": 3},
        without_tombstones_for_those_who_return,
    ),
    d8_a_volume_made_again_goes_on_above_its_tombstone: ({"rf": 2}, with_the_first_epoch_again),
    a_drain_goes_on_through_a_death_of_the_master_at_every_step: (
        {"rf": 2, "nodes": 3},
        with_shrinking_before_growing,
    ),
    a_lost_node_is_replaced_and_comes_back_empty: ({"rf": 2, "nodes": 3}, without_replacements),
    s17_a_wiped_follower_is_taken_in_under_its_new_name: (
        {"rf": 2},
        without_strangers_as_members,
    ),
    l1_a_master_that_is_away_holds_up_nobody: (
        {"rf": 3, "min_in_sync": 2},
        with_a_master_needed_to_serve,
    ),
    l4_the_last_one_standing_is_not_the_only_heir: ({"rf": 3, "min_in_sync": 2}, without_heirs),
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_well(schedule: Callable[[Stage], None]) -> None:
    shape, _ = SCHEDULES[schedule]
    with stage(**shape) as s:
        schedule(s)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_badly_without_its_rule(
    schedule: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, take_away = SCHEDULES[schedule]
    with stage(**shape) as s:
        take_away(monkeypatch)
        with ends_badly():
            schedule(s)
