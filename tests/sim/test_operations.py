"""Histories around restarts of the master and the wishes of people, whole and with a rule taken away.

As in ``test_schedules``: a history ends well or raises. Names are those of docs/claims.md where they have one there.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import Any

import pytest

from sparrow.authority.types import Line
from sparrow.base.errors import TimedOut
from sparrow.node import events as ev
from sparrow.node.asks import ask_until_answered
from sparrow.node.primacy import Primacy
from sparrow.rpc.messages import AskIntent, AskRequest
from sparrow.sim.checkers import Violation
from tests.support.stage import Stage, stage

BROKEN = (Violation, AssertionError)


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

    async def ask_once(self: Primacy, intent: Any, replica: Any, basis: Any, **more: Any) -> Any:
        request = AskRequest(
            volume_id=self.volume_id,
            intent=AskIntent(intent),
            replica_id=replica,
            asker=self.replica,
            basis=basis,
            **more,
        )
        answer = await ask_until_answered(
            self._around.master,
            request,
            still_wanted=lambda: not self.over and self._owner.line.lineage == basis,
            log=self._log,
        )
        if answer is None:
            return None
        told = answer if isinstance(answer, Line) else answer.recorded
        if told is not None:
            await self._owner.line_from_ask(told)
        code = None if isinstance(answer, Line) else answer.code
        return ev.AskEnded(intent=intent, replica=replica, basis=basis, refusal=code)

    patch.setattr(Primacy, "_ask", ask_once)


Rule = Callable[[pytest.MonkeyPatch], None]
SCHEDULES: dict[Callable[[Stage], None], tuple[dict[str, int], Rule]] = {
    s5d_the_recorded_line_of_a_replaced_master_ends_nothing: (
        {"rf": 2, "min_in_sync": 1},
        with_any_refusal_for_an_answer,
    ),
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
        with pytest.raises(BROKEN):
            schedule(s)
