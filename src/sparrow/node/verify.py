"""Comparison of all in-sync replicas, page by page, at one commit LSN per granule; and the repair of single pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Final

from sparrow.base import events as names
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import NotPrimary, SparrowError, TimedOut, Unavailable
from sparrow.base.ids import Lsn, ReplicaId
from sparrow.formats.crc32c import crc32c
from sparrow.node.primacy import Surroundings
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DigestOutcome, PageDigests
from sparrow.rpc.messages import PageDigestRequest, ReadPageRequest, VerifyProgress

GRANULE_PAGES: Final = (1 << 20) // PAGE_BYTES
#: Progress is told after this many granules, or at once when pages differ.
TELL_EVERY: Final = 16
CALL_TIMEOUT_S: Final = 5.0
GRANULE_TIMEOUT_S: Final = 30.0
PAUSE_FIRST_S: Final = 0.01
PAUSE_LAST_S: Final = 0.5
REPAIR_TRIES: Final = 5


def page_checksum(data: bytes) -> int:
    """What accompanies a page between nodes: its CRC32C."""
    return crc32c(data)


async def compare_replicas(volume: Volume, around: Surroundings) -> AsyncGenerator[VerifyProgress]:
    """Compare the volume this node is primary of, granule by granule, while it is in use.

    Raises: NotPrimary; Unavailable when a replica cannot be compared in time.
    """
    total = volume.size_bytes // PAGE_BYTES
    untold: list[int] = []
    progress: VerifyProgress | None = None
    for count, first in enumerate(range(0, total, GRANULE_PAGES), start=1):
        pages = min(GRANULE_PAGES, total - first)
        lsn, replicas, different = await _compare_granule(volume, around, first, pages)
        untold.extend(different)
        finished = first + pages >= total
        progress = VerifyProgress(
            pages_done=first + pages,
            pages_total=total,
            lsn=lsn,
            replicas=replicas,
            different_pages=tuple(untold),
            finished=finished,
        )
        if finished or untold or count % TELL_EVERY == 0:
            untold = []
            yield progress


async def _compare_granule(
    volume: Volume, around: Surroundings, first: int, pages: int
) -> tuple[Lsn, tuple[ReplicaId, ...], list[int]]:
    """The LSN compared at, the replicas compared, the pages that differ or are damaged."""
    pause = PAUSE_FIRST_S
    try:
        async with asyncio.timeout(GRANULE_TIMEOUT_S):
            while True:
                if volume.primacy is None:
                    raise NotPrimary(
                        f"This node is not primary of {volume.volume_id}.",
                        hint="The volume moved; start the comparison again.",
                    )
                lsn = (await around.dataplane.status(volume.volume_id)).log.commit_lsn
                replicas = volume.line.in_sync
                try:
                    found = await asyncio.gather(
                        *(
                            _digests(volume, around, r, lsn=lsn, first=first, pages=pages)
                            for r in replicas
                        )
                    )
                except Unavailable:
                    found = []
                odd = {DigestOutcome.BEHIND, DigestOutcome.PASSED}
                if found and not any(digests.outcome in odd for digests in found):
                    return lsn, replicas, _different(found, first, pages)
                # A follower hears of a commit with the next frame; a passed LSN is replaced by a newer one.
                await asyncio.sleep(pause)
                pause = min(pause * 2, PAUSE_LAST_S)
    except TimeoutError:
        raise TimedOut(
            f"Pages {first} to {first + pages - 1} of {volume.volume_id} could not be compared in time.",
            hint="A replica may be unreachable or far behind; see `sparrow volume show`.",
        ) from None


async def _digests(
    volume: Volume, around: Surroundings, replica: ReplicaId, *, lsn: Lsn, first: int, pages: int
) -> PageDigests:
    """One replica's digests, waiting a little while it is behind."""
    pause = PAUSE_FIRST_S
    while True:
        if replica == volume.replica_id:
            found = await around.dataplane.page_digests(
                volume.volume_id, at_lsn=lsn, first_page=first, page_count=pages
            )
        else:
            request = PageDigestRequest(
                volume_id=volume.volume_id, at_lsn=lsn, first_page=first, page_count=pages
            )
            found = await around.calls.page_digests(
                volume.peer(replica).ctrl_addr, request, timeout_s=CALL_TIMEOUT_S
            )
        if found.outcome is not DigestOutcome.BEHIND or pause >= PAUSE_LAST_S:
            return found
        await asyncio.sleep(pause)
        pause *= 2


def _different(found: list[PageDigests], first: int, pages: int) -> list[int]:
    odd = {page for digests in found for page in digests.damaged_pages}
    readable = [digests.digests for digests in found if len(digests.digests) == pages * 4]
    for index in range(pages):
        values = {digests[index * 4 : index * 4 + 4] for digests in readable}
        if len(values) > 1:
            odd.add(first + index)
    return sorted(odd)


async def repair(volume: Volume, around: Surroundings, page: int) -> bool:
    """Replace a damaged page by a peer's copy; whether that worked. Reads of it wait meanwhile.

    Without a peer that can help the waiting reads fail: a wrong byte is never returned.
    """
    log = around.log.bind(volume=volume.volume_id, page=page)
    log.error(names.PAGE_DAMAGED)
    dataplane = around.dataplane
    pause = PAUSE_FIRST_S
    for _try in range(REPAIR_TRIES):
        applied = (await dataplane.status(volume.volume_id)).log.applied_lsn
        for replica in _helpers(volume):
            request = ReadPageRequest(volume_id=volume.volume_id, at_least_lsn=applied, page=page)
            try:
                answer = await around.calls.read_page(
                    volume.peer(replica).ctrl_addr, request, timeout_s=CALL_TIMEOUT_S
                )
            except SparrowError as error:
                log.info(names.COMMAND_FAILED, command="read_page", peer=replica, cause=str(error))
                continue
            if len(answer.data) != PAGE_BYTES or page_checksum(answer.data) != answer.check:
                continue
            repaired = await dataplane.repair_page(
                volume.volume_id, page, answer.as_of_lsn, answer.data
            )
            log.info(
                names.PAGE_REPAIRED, peer=replica, as_of_lsn=answer.as_of_lsn, installed=repaired
            )
            return True
        await asyncio.sleep(pause)
        pause = min(pause * 4, PAUSE_LAST_S)
    await dataplane.repair_page(volume.volume_id, page, Lsn(0), None)
    return False


def _helpers(volume: Volume) -> tuple[ReplicaId, ...]:
    """In-sync replicas other than this one, the primary first: it knows the commit LSN best."""
    if volume.known_line is None:
        return ()
    others = [r for r in volume.line.in_sync if r != volume.replica_id]
    return tuple(sorted(others, key=lambda r: (r != volume.line.primary, r)))
