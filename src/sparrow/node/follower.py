"""What a replica answers the primary of its volume: a fence, a join, the preparation of a rebuild.

Nobody is believed for asking. The line shown has to make the caller primary, of an epoch and a master that are not over
as far as this node knows; a term is promised durably before anything is answered; and what was sent before a request
that was answered already changes nothing.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base import events as names
from sparrow.base.errors import (
    EpochConflict,
    FailedPrecondition,
    RemoteProtocolError,
    StaleEpoch,
)
from sparrow.base.ids import Epoch, Lsn, ReplicaId
from sparrow.node.lines import of_replaced_master
from sparrow.node.surroundings import Surroundings
from sparrow.ports.dataplane import FenceReport, JoinOutcome, LogSummary
from sparrow.rpc.messages import (
    FenceRequest,
    JoinAnswer,
    JoinAnswerOutcome,
    JoinRequest,
    PrepareRebuildAnswer,
    PrepareRebuildRequest,
)

if TYPE_CHECKING:
    from sparrow.node.volume import Volume

NOTHING: Final = (Term(epoch=Epoch(0), start=0), Lsn(0))
_OUTCOMES: Final = {
    JoinOutcome.JOINED: JoinAnswerOutcome.JOINED,
    JoinOutcome.NO_COMMON_POINT: JoinAnswerOutcome.NO_COMMON_POINT,
    JoinOutcome.QUARANTINED: JoinAnswerOutcome.QUARANTINED,
}


class Follower:
    """One replica as its primaries see it. ``forgetful``: a promise may be lost with a copy of its superblock."""

    def __init__(self, volume: Volume, around: Surroundings, *, forgetful: bool) -> None:
        self._volume = volume
        self._volume_id = volume.volume_id
        self._replica_id = volume.replica_id
        self._dataplane = around.dataplane
        self._log = around.log.bind(volume=volume.volume_id, replica=volume.replica_id)
        #: Until the master's newest line is known, an older primary could be promised anew.
        self._forgetful = forgetful
        #: Of the newest join and the newest preparation answered: the primary's term and how far its log reached. A
        #: join of a replica that is whole ends the preparation before it: the next one may show the same.
        self._joined_upon = self._prepared_upon = NOTHING

    async def fenced(self, request: FenceRequest) -> FenceReport:
        """Answer a primary's fence: its term is promised here, durably, when this returns."""
        self._check_memory()
        self._check_speaker(request.line, request.term, request.primary)
        await self._volume.line_from_peer(request.line)
        report = await self._promise(request.term, request.primary)
        self._log.info(
            names.FENCE_ANSWERED,
            epoch=request.term.epoch,
            primary=request.primary,
            promise_ms=report.promise_ms,
        )
        return report

    async def joined(self, request: JoinRequest) -> JoinAnswer:
        """Cut our log to the common point with the primary's and say where it is."""
        self._check_memory()
        self._check_speaker(request.line, request.term, request.primary)
        self._volume.check_slot(request.replica_id)
        await self._volume.line_from_peer(request.line)
        report = await self._promise(request.term, request.primary)
        shown = (request.term, request.log.last_lsn)
        self._check_newest("join", shown, report.log)
        self._joined_upon = shown
        if report.log.state is ReplicaState.CLEAN and self._prepared_upon <= shown:
            self._prepared_upon = NOTHING
        if self._volume.is_set_aside(self._volume.line):
            outcome, lsn, check = JoinAnswerOutcome.QUARANTINED, report.log.last_lsn, 0
        elif report.log.state is ReplicaState.REBUILDING:
            outcome, lsn, check = JoinAnswerOutcome.REBUILDING, report.log.last_lsn, 0
        elif report.log.state is ReplicaState.QUARANTINED:
            outcome, lsn, check = JoinAnswerOutcome.QUARANTINED, report.log.last_lsn, 0
        else:
            # It is done whether or not the primary still waits, and it is told in either case: a slow disk may take
            # longer than a primary waits, and when that asks again there is nothing left to cut.
            joining = asyncio.ensure_future(
                self._dataplane.join(self._volume_id, request.term, request.log)
            )
            joining.add_done_callback(partial(self._tell_what_was_cut, report.log.last_lsn))
            found, lsn, check = await asyncio.shield(joining)
            outcome = _OUTCOMES[found]
            if found is JoinOutcome.QUARANTINED:
                # What would be cut is applied here: kept as it is until an operator or a proof says otherwise.
                await self._dataplane.set_state(self._volume_id, ReplicaState.QUARANTINED)
        status = await self._dataplane.status(self._volume_id)
        self._volume.state = status.log.state
        if outcome is JoinAnswerOutcome.QUARANTINED:
            self._log.error(names.REPLICA_QUARANTINED, epoch=request.term.epoch)
        return JoinAnswer(
            outcome=outcome,
            joined_lsn=lsn,
            joined_check=check,
            log=status.log,
            detail="" if outcome is JoinAnswerOutcome.JOINED else f"state {status.log.state}",
        )

    def _tell_what_was_cut(
        self, last_lsn: Lsn, joining: asyncio.Future[tuple[JoinOutcome, Lsn, int]]
    ) -> None:
        if joining.cancelled() or joining.exception() is not None:
            return
        outcome, lsn, _ = joining.result()
        if outcome is JoinOutcome.JOINED and lsn < last_lsn:
            self._log.info(names.WAL_SUFFIX_CUT, from_lsn=lsn + 1, to_lsn=last_lsn)

    async def prepared(self, request: PrepareRebuildRequest) -> PrepareRebuildAnswer:
        """Make the files ready for a rebuild, keeping what they surely hold; never while a line counts on them."""
        self._check_memory()
        self._check_speaker(request.line, request.term, request.primary)
        self._volume.check_slot(request.replica_id)
        await self._volume.line_from_peer(request.line)
        report = await self._promise(request.term, request.primary)
        # A line may have come while the promise was written down.
        held = self._volume.line
        newest = held if held.lineage > request.line.lineage else request.line
        if self._replica_id in newest.in_sync and self._volume.is_member:
            raise FailedPrecondition(
                f"{self._replica_id} of {self._volume_id} is in the in-sync set.",
                hint="It is taken out by a line before its files may go.",
            )
        if report.log.state is ReplicaState.QUARANTINED or self._volume.is_set_aside(newest):
            raise FailedPrecondition(
                f"{self._replica_id} of {self._volume_id} is quarantined: its files are kept.",
                hint="They may hold what no other replica has; an operator decides.",
            )
        shown = (request.term, request.log.last_lsn)
        self._check_newest("preparation for a rebuild", shown, report.log)
        again = shown == self._prepared_upon and report.log.state is not ReplicaState.CLEAN
        if shown <= self._prepared_upon and not again:
            raise _late("preparation for a rebuild")
        self._prepared_upon = shown
        plan = await self._dataplane.prepare_rebuild(
            self._volume_id, request.term, request.log, request.changed_from
        )
        self._volume.state = ReplicaState.REBUILDING
        self._log.info(
            names.REBUILD_STARTED,
            epoch=request.term.epoch,
            primary=request.primary,
            kind=plan.kind.name.lower(),
            cursor_page=plan.cursor,
            from_lsn=plan.from_lsn,
            joined_lsn=plan.joined_lsn,
        )
        return PrepareRebuildAnswer(uuid=self._volume.uuid, plan=plan)

    async def check_promised(self, term: Term) -> None:
        """Raises unless the term's epoch is the one promised here."""
        promised = (await self._dataplane.status(self._volume_id)).promised_epoch
        if promised > term.epoch:
            raise StaleEpoch(f"Epoch {promised} is promised here, {term.epoch} is older.")
        if promised < term.epoch:
            raise FailedPrecondition(f"Epoch {term.epoch} was not promised here yet.")

    def _check_newest(self, what: str, shown: tuple[Term, Lsn], ours: LogSummary) -> None:
        """A primary's log only grows within its term: one that is behind what we saw of it was shown before that.

        Cutting to such a join, or letting the log go for such a preparation, would take away entries that we have
        acknowledged since.
        """
        term, _ = shown
        if shown < self._joined_upon or (
            ours.last_term >= term and shown < (ours.last_term, ours.last_lsn)
        ):
            raise _late(what)

    async def _promise(self, term: Term, primary: ReplicaId) -> FenceReport:
        try:
            report = await self._dataplane.fence(self._volume_id, term, primary)
        except EpochConflict as error:
            self._log.error(names.EPOCH_CONFLICTED, epoch=term.epoch, cause=str(error))
            raise
        await self._volume.superseded(term.epoch)
        return report

    def _check_speaker(self, line: Line, term: Term, primary: ReplicaId) -> None:
        """A primary speaks for its own line and epoch, and not for one we know to be over."""
        if line.volume_id != self._volume_id or not line.lineage.valid:
            raise RemoteProtocolError("The line shown is not one of this volume.")
        if (
            line.primary != primary
            or line.lineage.epoch != term.epoch
            or primary == self._replica_id
        ):
            raise RemoteProtocolError("The line shown does not make the caller primary.")
        known = self._volume.known_line
        if known is not None and line.lineage.epoch < known.lineage.epoch:
            raise StaleEpoch(f"Epoch {known.lineage.epoch} is known here, {term.epoch} is older.")
        if of_replaced_master(known, line):
            raise StaleEpoch("The line shown is of a master that was replaced.")

    def _check_memory(self) -> None:
        """With one superblock copy lost nothing is promised before the master said which line is the newest.

        Whatever was promised, it was to the primary of a line that the master minted: older epochs are refused from
        then on, by that line.
        """
        if self._forgetful and not self._volume.heard_master:
            raise FailedPrecondition(
                f"{self._replica_id} of {self._volume_id} lost a copy of its superblock.",
                hint="It promises nothing before it has heard the newest line from the master.",
            )


def _late(what: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"This {what} was sent before one that was answered already.",
        hint="A newer one is under way or done; nothing was changed.",
    )
