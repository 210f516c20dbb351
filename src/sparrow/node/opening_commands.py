"""The commands of an opening: a term is begun, others are fenced, the longest log is adopted."""

from __future__ import annotations

from contextlib import aclosing
from typing import Final

from sparrow.base import events as names
from sparrow.base.errors import EpochConflict, NotFound, SparrowError, StaleEpoch
from sparrow.base.ids import Lsn
from sparrow.node import effects as fx
from sparrow.node import events as ev
from sparrow.node.term import TermPlace
from sparrow.ports.dataplane import JoinOutcome
from sparrow.rpc.messages import FenceRequest, ReadLogRequest

READ_LOG_TIMEOUT_S: Final = 10.0


class OpeningCommands:
    """Each ends with the event that tells its outcome."""

    def __init__(self, term: TermPlace) -> None:
        self._term = term

    async def begin_term(self) -> ev.PrimaryEvent:
        try:
            term = await self._term.around.dataplane.begin_term(
                self._term.volume_id, self._term.epoch
            )
            own = await self._term.around.dataplane.fence(
                self._term.volume_id, term, self._term.replica
            )
        except (StaleEpoch, EpochConflict) as error:
            self._term.note_conflict(error)
            return ev.TermRefused(cause=str(error))
        return ev.TermBegun(term=term, own=own)

    async def fence(self, effect: fx.SendFence) -> ev.PrimaryEvent:
        request = FenceRequest(
            line=self._term.owner.line, term=effect.term, primary=self._term.replica
        )
        try:
            peer = self._term.owner.peer(effect.replica)
            report = await self._term.around.calls.fence(
                peer.ctrl_addr, request, timeout_s=effect.timeout_s
            )
        except SparrowError as error:
            self._term.note_conflict(error)
            superseded = self._term.is_over_for(error)
            return ev.FenceFailed(replica=effect.replica, cause=str(error), superseded=superseded)
        return ev.FenceAnswered(replica=effect.replica, report=report)

    async def adopt(self, effect: fx.Adopt) -> ev.PrimaryEvent:
        """Cut our own end off where the longer log does not have it, then append the rest of that log."""
        source, log = effect.source, effect.log
        outcome, at, _check = await self._term.around.dataplane.join(
            self._term.volume_id, effect.term, log
        )
        if outcome is not JoinOutcome.JOINED:
            return ev.AdoptFailed(source=source, cause=outcome.value, lasting=True)
        try:
            while at < log.last_lsn:
                before = at
                request = ReadLogRequest(
                    volume_id=self._term.volume_id, term=effect.term, from_lsn=Lsn(at + 1)
                )
                addr = self._term.owner.peer(source).ctrl_addr
                chunks = self._term.around.calls.read_log(
                    addr, request, timeout_s=READ_LOG_TIMEOUT_S
                )
                async with aclosing(chunks) as stream:
                    async for chunk in stream:
                        at = await self._term.around.dataplane.append_log(
                            self._term.volume_id, chunk.batches
                        )
                if at == before:
                    return ev.AdoptFailed(source=source, cause=f"its log ended at {at}")
        except NotFound as error:
            return ev.AdoptFailed(source=source, cause=str(error), lasting=True)
        except SparrowError as error:
            return ev.AdoptFailed(source=source, cause=str(error))
        status = await self._term.around.dataplane.status(self._term.volume_id)
        self._term.log.info(names.LOG_ADOPTED, source=source, last_lsn=status.log.last_lsn)
        return ev.LogAdopted(log=status.log)
