"""Comparing replicas, and mending what is damaged at rest."""

from __future__ import annotations

import itertools
import zlib

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import DamagedData, Unavailable
from sparrow.base.ids import Lsn, VolumeId
from sparrow.dataplane.model.base import Base
from sparrow.dataplane.model.log import decode_batches
from sparrow.dataplane.model.sums import encode_sums, sums_known
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.ports.dataplane import (
    AtRest,
    BatchCheck,
    BatchDamaged,
    DigestOutcome,
    PageDamaged,
    PageDigests,
    SumsCheck,
    SumsDamaged,
    SumsImage,
    SumsMended,
)


class Repair(Base):
    """Compares and mends."""

    async def page_states(
        self, volume_id: VolumeId, *, first_page: int, page_count: int
    ) -> tuple[tuple[int, bool], ...]:
        volume = self._volume(volume_id)
        view = volume.files.log.view(volume.commit)
        end = min(first_page + page_count, volume.files.size_bytes // PAGE_BYTES)
        pages = (page in view for page in range(first_page, end))
        return tuple((len(tuple(run)), data) for data, run in itertools.groupby(pages))

    async def page_digests(
        self, volume_id: VolumeId, *, at_lsn: Lsn, first_page: int, page_count: int
    ) -> PageDigests:
        volume = self._volume(volume_id)
        outcome, digests = DigestOutcome.READY, b""
        wanted = range(first_page, first_page + page_count)
        damaged = tuple(p for p in wanted if volume.files.damages(p))
        if volume.commit < at_lsn:
            outcome = DigestOutcome.BEHIND
        elif volume.files.log.base_lsn > at_lsn:
            outcome = DigestOutcome.PASSED
        elif damaged:
            outcome = DigestOutcome.DAMAGED
        else:
            view = volume.files.log.view(at_lsn)
            digests = b"".join(
                zlib.crc32(view.get(p, bytes(PAGE_BYTES))).to_bytes(4, "little") for p in wanted
            )
        return PageDigests(
            outcome=outcome,
            digests=digests,
            commit_lsn=volume.commit,
            applied_lsn=volume.files.applied,
            damaged_pages=damaged,
        )

    async def read_page(
        self, volume_id: VolumeId, page: int, *, at_least_lsn: Lsn
    ) -> tuple[Lsn, bytes]:
        volume = self._volume(volume_id)
        if volume.commit < at_least_lsn:
            raise Unavailable(f"Only {volume.commit} is known to be committed here.")
        if volume.files.damages(page):
            raise DamagedData(f"Page {page} is damaged.")
        view = volume.files.log.view(volume.commit)
        return volume.commit, view.get(page, bytes(PAGE_BYTES))

    async def repair_page(
        self, volume_id: VolumeId, page: int, as_of_lsn: Lsn, data: bytes | None
    ) -> bool:
        volume = self._volume(volume_id)
        if data is None or as_of_lsn < volume.files.applied:
            return False
        if page in volume.files.lost and as_of_lsn > volume.commit:
            raise Unavailable(f"Only {volume.commit} is known to be committed here.")
        volume.files.damaged.discard(page)
        volume.files.lost.discard(page)
        return True

    async def read_sums(self, volume_id: VolumeId, block: int, *, at_lsn: Lsn) -> SumsImage:
        volume = self._volume(volume_id)
        if block in volume.files.damaged_sums:
            raise DamagedData(f"Block {block} is damaged.")
        outcome, image = DigestOutcome.READY, b""
        if volume.commit < at_lsn:
            outcome = DigestOutcome.BEHIND
        elif volume.files.log.base_lsn > at_lsn:
            outcome = DigestOutcome.PASSED
        else:
            image = encode_sums(volume.files.log.view(at_lsn), block, volume.files.lost)
        return SumsImage(outcome=outcome, block=image, commit_lsn=volume.commit)

    async def check_superblock(self, volume_id: VolumeId) -> AtRest:
        files = self._volume(volume_id).files
        if not files.superblock_damaged:
            return AtRest.WHOLE
        files.superblock_damaged = False
        return AtRest.REWRITTEN

    async def check_sums(self, volume_id: VolumeId, block: int) -> SumsCheck:
        files = self._volume(volume_id).files
        if block in files.damaged_sums:
            self._emit(SumsDamaged(volume_id=volume_id, block=block, errno=0))
            return SumsCheck(state=AtRest.DAMAGED, lost_pages=0)
        lost = sum(page // PAGES_PER_BLOCK == block for page in files.lost)
        return SumsCheck(state=AtRest.WHOLE, lost_pages=lost)

    async def check_pages(
        self, volume_id: VolumeId, first_page: int, page_count: int
    ) -> int | None:
        files = self._volume(volume_id).files
        for page in range(first_page, first_page + page_count):
            if files.damages(page):
                self._emit(PageDamaged(volume_id=volume_id, page=page))
                return page
        return None

    async def check_batch(self, volume_id: VolumeId, lsn: Lsn) -> BatchCheck | None:
        files = self._volume(volume_id).files
        at = Lsn(max(lsn, files.log.base_lsn + 1))
        if at > files.log.last_lsn:
            return None
        damaged = at in files.damaged_lsns
        if damaged:
            self._emit(BatchDamaged(volume_id=volume_id, first_lsn=at, last_lsn=at))
        return BatchCheck(
            next_lsn=Lsn(at + 1),
            state=AtRest.DAMAGED if damaged else AtRest.WHOLE,
            size_bytes=2 * PAGE_BYTES,
        )

    async def mend_batch(self, volume_id: VolumeId, first_lsn: Lsn, batches: bytes | None) -> bool:
        files = self._volume(volume_id).files
        own = files.log.check_at(first_lsn) if first_lsn > files.log.base_lsn else None
        if own is None:
            return False
        if batches is None:
            if first_lsn in files.damaged_lsns and first_lsn <= files.applied:
                files.log.recycle(first_lsn)
        elif decode_batches(batches)[0].check != own:
            raise DamagedData(f"That is no copy of batch {first_lsn}.")
        files.damaged_lsns.discard(first_lsn)
        return True

    async def mend_sums(
        self, volume_id: VolumeId, block: int, at_lsn: Lsn, images: tuple[bytes, ...]
    ) -> SumsMended:
        volume = self._volume(volume_id)
        files = volume.files
        if images and at_lsn > volume.commit:
            return SumsMended(outcome=DigestOutcome.BEHIND, lost_pages=0)
        first = block * PAGES_PER_BLOCK
        pages = range(first, min(first + PAGES_PER_BLOCK, files.size_bytes // PAGE_BYTES))
        if block in files.damaged_sums:
            files.damaged_sums.discard(block)
            files.lost.update(pages)
        for image in images:
            files.lost -= {first + index for index in sums_known(image)}
        return SumsMended(
            outcome=DigestOutcome.READY, lost_pages=sum(page in files.lost for page in pages)
        )
