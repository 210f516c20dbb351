"""What a term asks of the master: that a peer leaves the in-sync set, or joins it."""

from __future__ import annotations

import asyncio
from typing import Final

from sparrow.authority.types import Intent, Line, Lineage
from sparrow.base.ids import ReplicaId, ReplicaUuid
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.asks import ask_until_answered
from sparrow.node.term import TermPlace
from sparrow.rpc.messages import AskIntent, AskRequest

#: After an answer that was no answer.
ASK_AGAIN_S: Final = 0.5


class AskCommands:
    """Each ends with the event that tells its outcome, or with none when a newer line made it pointless."""

    def __init__(self, term: TermPlace) -> None:
        self._term = term

    async def shrink(self, effect: fx.AskShrink) -> ev.PrimaryEvent | None:
        return await self.ask(
            Intent.SHRINK_IN_SYNC,
            effect.replica,
            effect.basis,
            reason=effect.reason,
            clear_eligible=effect.clear_eligible,
        )

    async def grow(self, effect: fx.AskGrow) -> ev.PrimaryEvent | None:
        return await self.ask(
            Intent.GROW_IN_SYNC,
            effect.replica,
            effect.basis,
            reason="caught up",
            uuid=effect.uuid,
        )

    async def ask(
        self,
        intent: Intent,
        replica: ReplicaId,
        basis: Lineage,
        *,
        reason: str,
        clear_eligible: bool = False,
        uuid: ReplicaUuid | None = None,
    ) -> ev.PrimaryEvent | None:
        request = AskRequest(
            volume_id=self._term.volume_id,
            intent=AskIntent(intent),
            replica_id=replica,
            asker=self._term.replica,
            basis=basis,
            reason=reason,
            clear_eligible=clear_eligible,
            uuid=uuid,
        )
        while True:
            answer = await ask_until_answered(
                self._term.around.master,
                request,
                still_wanted=lambda: (
                    not self._term.ended() and self._term.owner.line.lineage == basis
                ),
                log=self._term.log,
            )
            if answer is None:
                return None
            told = answer if isinstance(answer, Line) else answer.recorded
            if told is not None:
                await self._term.owner.line_from_ask(told)
                if told.lineage > self._term.owner.line.lineage:
                    # Refused here, because a newer master was heard since: whether that one stands by it is not
                    # known yet. If it does, the line counts on what was asked for, so nothing may end.
                    await asyncio.sleep(ASK_AGAIN_S)
                    continue
            refusal = None if isinstance(answer, Line) else answer.code
            return ev.AskEnded(intent=intent, replica=replica, basis=basis, refusal=refusal)
