"""What replicas hold, compared and put right: pages and checksums by peers, and the disk itself by a scrub."""

from __future__ import annotations

import asyncio
from typing import Final

from sparrow.base.errors import Unavailable
from sparrow.base.ids import Lsn, VolumeId
from sparrow.dataplane.decode import words_of
from sparrow.dataplane.files import descriptors, superblock
from sparrow.dataplane.native.replicas import Replicas
from sparrow.ports.dataplane import (
    AtRest,
    BatchCheck,
    DigestOutcome,
    PageDigests,
    SumsCheck,
    SumsImage,
    SumsMended,
)

AT_REST: Final = {1: AtRest.WHOLE, 2: AtRest.REWRITTEN, 3: AtRest.DAMAGED}
DIGEST_OUTCOMES: Final = {
    1: DigestOutcome.READY,
    2: DigestOutcome.BEHIND,
    3: DigestOutcome.PASSED,
    4: DigestOutcome.DAMAGED,
}


class Repair(Replicas):
    """Commands of verification, of repair and of scrubs."""

    async def page_digests(
        self, volume_id: VolumeId, *, at_lsn: Lsn, first_page: int, page_count: int
    ) -> PageDigests:
        answer = await self._call("digests", volume_id, a=at_lsn, b=first_page, c=page_count)
        outcome = DIGEST_OUTCOMES[answer.a]
        damaged = words_of(answer.payload) if outcome is DigestOutcome.DAMAGED else ()
        return PageDigests(
            outcome=outcome,
            digests=answer.payload if outcome is DigestOutcome.READY else b"",
            commit_lsn=Lsn(answer.b),
            applied_lsn=Lsn(answer.c),
            damaged_pages=damaged,
        )

    async def read_page(
        self, volume_id: VolumeId, page: int, *, at_least_lsn: Lsn
    ) -> tuple[Lsn, bytes]:
        answer = await self._call("read_page", volume_id, a=page, b=at_least_lsn)
        return Lsn(answer.a), answer.payload

    async def repair_page(
        self, volume_id: VolumeId, page: int, as_of_lsn: Lsn, data: bytes | None
    ) -> bool:
        answer = await self._call("repair_page", volume_id, a=page, b=as_of_lsn, data=data or b"")
        return bool(answer.a)

    async def read_sums(self, volume_id: VolumeId, block: int, *, at_lsn: Lsn) -> SumsImage:
        answer = await self._call("read_sums", volume_id, a=block, b=at_lsn)
        return SumsImage(
            outcome=DIGEST_OUTCOMES[answer.a], block=answer.payload, commit_lsn=Lsn(answer.b)
        )

    async def mend_sums(
        self, volume_id: VolumeId, block: int, at_lsn: Lsn, images: tuple[bytes, ...]
    ) -> SumsMended:
        answer = await self._call("mend_sums", volume_id, a=block, b=at_lsn, data=b"".join(images))
        return SumsMended(outcome=DIGEST_OUTCOMES[answer.a], lost_pages=answer.b)

    async def _direct(self, volume_id: VolumeId) -> descriptors.DirectFiles:
        volume = self._open(volume_id)
        if volume.direct is None:
            opened = await asyncio.to_thread(descriptors.open_direct, volume.files.folder)
            if self._volumes.get(volume_id) is not volume:
                opened.close()
                return await self._direct(volume_id)
            # One scrub runs at a time, so nobody else opened them meanwhile.
            volume.direct = opened
        return volume.direct

    # ---- scrub: what the disk holds, read past every cache
    async def check_superblock(self, volume_id: VolumeId) -> AtRest:
        files = self._open(volume_id).files
        if await asyncio.to_thread(superblock.superblock_whole, files.folder):
            if await asyncio.to_thread(superblock.table_whole, files.folder):
                return AtRest.WHOLE
            await self._call("mend_table", volume_id)
            return AtRest.REWRITTEN
        if (await self.status(volume_id)).log.suspect:
            raise Unavailable(
                f"Volume {volume_id!r} has to rejoin before its superblock is mended."
            )
        await self._call("mend_superblock", volume_id)
        return AtRest.REWRITTEN

    async def check_sums(self, volume_id: VolumeId, block: int) -> SumsCheck:
        direct = await self._direct(volume_id)
        answer = await self._call("check_sums", volume_id, a=block, b=direct.sums_fd)
        return SumsCheck(state=AT_REST[answer.a], lost_pages=answer.b)

    async def check_pages(
        self, volume_id: VolumeId, first_page: int, page_count: int
    ) -> int | None:
        direct = await self._direct(volume_id)
        answer = await self._call(
            "check_pages", volume_id, a=first_page, b=page_count, c=direct.extents_fd
        )
        return None if answer.a else answer.b

    async def check_batch(self, volume_id: VolumeId, lsn: Lsn) -> BatchCheck | None:
        answer = await self._call("check_batch", volume_id, a=lsn)
        if answer.a == 0:
            return None
        return BatchCheck(next_lsn=Lsn(answer.a), state=AT_REST[answer.b], size_bytes=answer.c)

    async def mend_batch(self, volume_id: VolumeId, first_lsn: Lsn, batches: bytes | None) -> bool:
        answer = await self._call("mend_batch", volume_id, a=first_lsn, data=batches or b"")
        return answer.a != 0
