"""What ends an ask, and what is no answer."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
import structlog

from sparrow.authority.results import Refusal
from sparrow.authority.types import Line
from sparrow.base.errors import TimedOut
from sparrow.base.ids import ReplicaId
from sparrow.node.asks import ask_until_answered
from sparrow.rpc.messages import AskAnswer, AskIntent, AskRefusal, AskRequest
from tests.support.lines import line
from tests.support.virtual_time import run_virtual

NOW = line(3, 2, "a", "ab")
REQUEST = AskRequest(
    volume_id=NOW.volume_id,
    intent=AskIntent.GROW_IN_SYNC,
    replica_id=ReplicaId("c"),
    asker=ReplicaId("a"),
    basis=NOW.lineage,
    reason="caught up",
)


class Master:
    """Answers as scripted, then with the line."""

    def __init__(self, *script: AskAnswer | Exception) -> None:
        self.script = list(script)
        self.asked = 0

    async def ask(self, request: AskRequest, *, timeout_s: float) -> AskAnswer:
        self.asked += 1
        answer = self.script.pop(0) if self.script else NOW
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def heartbeat(self, *_args: Any, **_more: Any) -> Any:
        raise AssertionError("only asks here")

    async def subscribe(self, *_args: Any) -> AsyncGenerator[Any]:
        raise AssertionError("only asks here")
        yield


def refusal(code: Refusal, recorded: Line | None) -> AskRefusal:
    return AskRefusal(code=code.value, message="no", basis=NOW.lineage, recorded=recorded)


def asked(master: Master) -> AskAnswer | None:
    async def story() -> AskAnswer | None:
        return await ask_until_answered(
            master, REQUEST, still_wanted=lambda: True, log=structlog.get_logger()
        )

    found: list[AskAnswer | None] = []

    async def run() -> None:
        found.append(await story())

    run_virtual(run())
    return found[0]


@pytest.mark.parametrize(
    "no_answer",
    [
        TimedOut("lost"),
        refusal(Refusal.BASIS_AHEAD, line(3, 1, "a", "ab")),
        # A store that was restored or rebuilt: what another master minted for this very ask is not known there.
        refusal(Refusal.QUARANTINED, None),
        refusal(Refusal.NOT_BOUND, None),
        refusal(Refusal.NOT_PRIMARY, line(2, 9, "b", "ab")),
        replace(refusal(Refusal.NOT_A_MEMBER, NOW), basis=line(3, 1, "a", "ab").lineage),
    ],
    ids=lambda one: getattr(one, "code", "other"),
)
def test_what_proves_nothing_is_asked_again(no_answer: AskAnswer | Exception) -> None:
    master = Master(no_answer, no_answer)
    assert asked(master) == NOW
    assert master.asked == 3


@pytest.mark.parametrize("recorded", [NOW, line(3, 3, "a", "ab"), line(4, 1, "b", "b")])
def test_a_no_before_a_record_as_new_as_the_basis_ends_it(recorded: Line) -> None:
    no = refusal(Refusal.STALE_BASIS, recorded)
    master = Master(no)
    assert asked(master) == no
    assert master.asked == 1
