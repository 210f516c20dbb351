"""Asks to the master that are repeated until they are answered.

A transport error is no answer: the ask may have been applied. Only a line or a refusal that names the basis ends it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from structlog.typing import FilteringBoundLogger

from sparrow.authority.results import Refusal
from sparrow.authority.types import Line
from sparrow.base import events
from sparrow.base.errors import SparrowError
from sparrow.node.outside import MasterCalls
from sparrow.rpc.messages import AskAnswer, AskRefusal, AskRequest

ASK_TIMEOUT_S: Final = 2.0
PAUSE_FIRST_S: Final = 0.2
PAUSE_LAST_S: Final = 2.0


async def ask_until_answered(
    master: MasterCalls,
    request: AskRequest,
    *,
    still_wanted: Callable[[], bool],
    log: FilteringBoundLogger,
) -> AskAnswer | None:
    """Ask until there is an answer; None once ``still_wanted`` says that a newer line made it pointless."""
    pause = PAUSE_FIRST_S
    facts = {
        "volume": request.volume_id,
        "intent": request.intent.name.lower(),
        "replica": request.replica_id,
        "epoch": request.basis.epoch,
        "endpoint_version": request.basis.endpoint_version,
    }
    log.info(events.ASK_SENT, reason=request.reason, **facts)
    while still_wanted():
        try:
            answer = await master.ask(request, timeout_s=ASK_TIMEOUT_S)
        except SparrowError as error:
            log.info(events.ASK_FAILED, cause=str(error), **facts)
        else:
            if isinstance(answer, Line):
                return answer
            log.info(events.ASK_REFUSED, code=answer.code, cause=answer.message, **facts)
            if _ends(answer, request):
                return answer
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSE_LAST_S)
    return None


def _ends(answer: AskRefusal, request: AskRequest) -> bool:
    """A no counts when it was said before a record that is at least as new as what the ask was decided on.

    A master that was restored from a copy, that has not confirmed the volume yet or never heard of it, knows nothing
    of what another one may have minted for this very ask.
    """
    recorded = answer.recorded
    return (
        answer.basis == request.basis
        and answer.code != Refusal.BASIS_AHEAD
        and recorded is not None
        and recorded.lineage >= request.basis
    )
