"""Lines, promises and terms; how a log joins that of a new primary."""

from __future__ import annotations

import math

from sparrow.authority.types import Line, ReplicaState, Term
from sparrow.base.constants import GRANT_S, PAGE_BYTES
from sparrow.base.errors import DamagedData, EpochConflict, StaleEpoch
from sparrow.base.ids import Epoch, Lsn, ReplicaId, VolumeId
from sparrow.dataplane.model.log import NO_TERM, ModelLog, decode_batches
from sparrow.dataplane.model.shipping import Shipping
from sparrow.dataplane.model.state import ModelVolume
from sparrow.ports.dataplane import FenceReport, JoinOutcome, LogSummary, RebuildKind, RebuildPlan


class Terms(Shipping):
    """A log and its terms."""

    async def set_line(
        self, volume_id: VolumeId, line: Line, pending: tuple[ReplicaId, ...]
    ) -> None:
        files = self._volume(volume_id).files
        files.line, files.pending = line, pending
        own = line.member(files.replica_id)
        absent = {m.uuid for m in line.members if m.replica_id not in line.in_sync}
        if own is None or own.uuid != files.uuid or files.uuid in absent:
            absent = set()
        files.absences = {uuid: files.absences.get(uuid, (files.applied, set())) for uuid in absent}

    async def fence(self, volume_id: VolumeId, term: Term, primary: ReplicaId) -> FenceReport:
        volume = self._volume(volume_id)
        self._promise(volume_id, volume, term, primary)
        older = [held for held in volume.promises if held.epoch != term.epoch]
        newest = max(older, default=None)
        return FenceReport(
            log=self._summary(volume),
            promise_ms=self._promised_ms(volume, older),
            promised_epoch=volume.files.promised_epoch,
            promised_to=newest,
            older_promise_ms=self._promised_ms(volume, [held for held in older if held != newest]),
            closed=volume.led if NO_TERM < volume.led < term else None,
        )

    def _promised_ms(self, volume: ModelVolume, terms: list[Term]) -> int:
        """How long promises to these terms run, and the hold-off after the start."""
        ends = [volume.promises[held] for held in terms] + [self._started_at + GRANT_S]
        return max(0, math.ceil((max(ends) - self._clock()) * 1000))

    async def begin_term(self, volume_id: VolumeId, epoch: Epoch) -> Term:
        volume = self._volume(volume_id)
        files = volume.files
        term = Term(epoch=epoch, start=files.start + 1)
        self._promise(volume_id, volume, term, files.replica_id)
        files.start += 1
        self._drop_links(volume_id, volume)
        volume.primary = True
        volume.term = volume.led = term
        volume.released = volume.over = False
        volume.term_start = volume.inherited = Lsn(0)
        volume.needed, volume.writable, volume.allowed = (), False, False
        volume.one_of, volume.ack_local, volume.answered = (), False, Lsn(0)
        volume.rights.clear()
        return term

    def _promise(
        self, volume_id: VolumeId, volume: ModelVolume, term: Term, primary: ReplicaId
    ) -> None:
        files = volume.files
        if files.promised_epoch > term.epoch:
            raise StaleEpoch(f"Epoch {files.promised_epoch} is promised, {term.epoch} is older.")
        if files.promised_epoch == term.epoch and files.promised_primary not in {None, primary}:
            raise EpochConflict(f"Epoch {term.epoch} is promised to {files.promised_primary}.")
        if volume.term != term:
            self._close_for_good(volume_id, volume, "superseded")
            if volume.primary and primary != files.replica_id:
                self._drop_links(volume_id, volume)
                volume.primary = False
        files.promised_epoch, files.promised_primary = term.epoch, primary
        if primary != files.replica_id:
            volume.term = term

    async def read_log(self, volume_id: VolumeId, from_lsn: Lsn, *, bytes_max: int) -> bytes:
        files = self._volume(volume_id).files
        if from_lsn in files.damaged_lsns:
            raise DamagedData(f"Batch {from_lsn} is damaged.")
        return files.log.read(from_lsn, bytes_max=bytes_max)

    async def append_log(self, volume_id: VolumeId, batches: bytes) -> Lsn:
        log = self._volume(volume_id).files.log
        for batch in decode_batches(batches):
            log.append(batch)
        log.flush()
        return log.last_lsn

    async def check_at(self, volume_id: VolumeId, lsn: Lsn) -> int | None:
        return self._volume(volume_id).files.log.check_at(lsn)

    async def join(
        self, volume_id: VolumeId, term: Term, primary: LogSummary
    ) -> tuple[JoinOutcome, Lsn, int]:
        volume = self._volume(volume_id)
        files = volume.files
        if files.promised_epoch > term.epoch:
            raise StaleEpoch(f"Epoch {files.promised_epoch} is promised, {term.epoch} is older.")
        if files.state is ReplicaState.QUARANTINED:
            return JoinOutcome.QUARANTINED, Lsn(0), 0
        common = files.log.common_with(primary)
        if common is None or common < files.log.base_lsn:
            return JoinOutcome.NO_COMMON_POINT, Lsn(0), 0
        if common < files.applied:
            files.state = ReplicaState.QUARANTINED
            return JoinOutcome.QUARANTINED, Lsn(0), 0
        files.log.cut(common)
        # What is answered counts for commits: it is durable before it leaves.
        files.log.flush()
        files.suspect = False
        check = files.log.check_at(common)
        assert check is not None
        return JoinOutcome.JOINED, common, check

    async def prepare_rebuild(
        self, volume_id: VolumeId, term: Term, primary: LogSummary, changed_from: Lsn | None
    ) -> RebuildPlan:
        """A copy is one message here, so there is nothing to resume; what was kept for a delta stays kept."""
        volume = self._volume(volume_id)
        files = volume.files
        if files.promised_epoch > term.epoch:
            raise StaleEpoch(f"Epoch {files.promised_epoch} is promised.")
        if files.state is ReplicaState.CLEAN:
            common = None if files.suspect else files.log.common_with(primary)
            files.kept, files.kept_from = {}, None
            if common is not None and common >= max(files.applied, files.log.base_lsn):
                known = Lsn(max(files.applied, min(common, primary.commit_lsn)))
                files.kept, files.kept_from = files.log.view(known), known
        if changed_from is None or files.kept_from is None or changed_from > files.kept_from:
            files.kept, files.kept_from = {}, None
        files.state = ReplicaState.REBUILDING
        files.absences = {}
        files.log = ModelLog()
        files.applied = files.must_reach = Lsn(0)
        volume.commit = Lsn(0)
        if files.kept_from is None:
            return RebuildPlan(kind=RebuildKind.FULL)
        cursor = files.size_bytes // PAGE_BYTES
        return RebuildPlan(kind=RebuildKind.DELTA, cursor=cursor, from_lsn=files.kept_from)

    async def commit_inherited(self, volume_id: VolumeId) -> Lsn:
        volume = self._volume(volume_id)
        volume.inherited = volume.term_start = self._log_entry(volume_id, volume, None, b"")
        await self._committed(volume_id, volume, volume.term_start)
        return volume.term_start
