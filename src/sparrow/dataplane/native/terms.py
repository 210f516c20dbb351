"""Terms of a volume: promised, begun, and the logs of replicas brought together under them."""

from __future__ import annotations

import struct
from typing import Final

from sparrow.authority.types import Term
from sparrow.base.ids import Epoch, Lsn, ReplicaId, VolumeId
from sparrow.dataplane.decode import NONE_U64, decode_fence, words_of
from sparrow.dataplane.files.superblock import replica_bytes
from sparrow.dataplane.native.base import Base
from sparrow.ports.dataplane import FenceReport, JoinOutcome, LogSummary, RebuildKind, RebuildPlan

JOIN_OUTCOMES: Final = {
    1: JoinOutcome.JOINED,
    2: JoinOutcome.NO_COMMON_POINT,
    3: JoinOutcome.QUARANTINED,
}


class Terms(Base):
    """Commands of a term, by its primary-to-be and by its followers."""

    async def fence(self, volume_id: VolumeId, term: Term, primary: ReplicaId) -> FenceReport:
        answer = await self._call(
            "fence",
            volume_id,
            a=term.epoch,
            b=term.start,
            data=replica_bytes(primary),
        )
        uuid = self._open(volume_id).uuid
        return decode_fence(
            words_of(answer.payload), uuid, term, promise_ns=answer.a, older_ns=answer.b
        )

    async def begin_term(self, volume_id: VolumeId, epoch: Epoch) -> Term:
        own = self._open(volume_id).replica_id
        answer = await self._call("begin_term", volume_id, a=epoch, data=replica_bytes(own))
        return Term(epoch=epoch, start=answer.a)

    async def read_log(self, volume_id: VolumeId, from_lsn: Lsn, *, bytes_max: int) -> bytes:
        return (await self._call("read_log", volume_id, a=from_lsn, b=bytes_max)).payload

    async def append_log(self, volume_id: VolumeId, batches: bytes) -> Lsn:
        return Lsn((await self._call("append_log", volume_id, data=batches)).a)

    async def check_at(self, volume_id: VolumeId, lsn: Lsn) -> int | None:
        answer = await self._call("check_at", volume_id, a=lsn)
        return answer.b if answer.a else None

    async def join(
        self, volume_id: VolumeId, term: Term, primary: LogSummary
    ) -> tuple[JoinOutcome, Lsn, int]:
        answer = await self._call(
            "join",
            volume_id,
            a=term.epoch,
            b=term.start,
            c=primary.last_lsn,
            data=_term_rows(primary),
        )
        return JOIN_OUTCOMES[answer.a], Lsn(answer.b), answer.c

    async def prepare_rebuild(
        self, volume_id: VolumeId, term: Term, primary: LogSummary, changed_from: Lsn | None
    ) -> RebuildPlan:
        offer = NONE_U64 if changed_from is None else changed_from
        answer = await self._call(
            "prepare",
            volume_id,
            a=term.epoch,
            b=term.start,
            c=primary.last_lsn,
            d=primary.oldest_lsn,
            data=struct.pack("<2Q", offer, primary.commit_lsn) + _term_rows(primary),
        )
        kind = RebuildKind(answer.a)
        if kind is RebuildKind.FULL:
            await self._machine.empty(self._open(volume_id).files)
        if kind is not RebuildKind.RESUMED:
            await self._call("prepared", volume_id, a=term.epoch, b=term.start)
        cursor, from_lsn, base_lsn, patched, pages = words_of(answer.payload)
        return RebuildPlan(
            kind=kind,
            joined_lsn=Lsn(answer.b),
            cursor=cursor,
            from_lsn=Lsn(from_lsn),
            base_lsn=Lsn(base_lsn),
            patched=patched,
            pages=pages,
        )

    async def commit_inherited(self, volume_id: VolumeId) -> Lsn:
        return Lsn((await self._call("commit_inherited", volume_id)).a)


def _term_rows(log: LogSummary) -> bytes:
    """A log's terms as commands carry them."""
    return b"".join(
        struct.pack("<4Q", row.term.epoch, row.term.start, row.first_lsn, row.last_lsn)
        for row in log.terms
    )
