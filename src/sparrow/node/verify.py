"""Comparison of all in-sync replicas, page by page, at one commit LSN per granule."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Final

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import NotPrimary, TimedOut, Unavailable
from sparrow.base.ids import Lsn, ReplicaId
from sparrow.node.surroundings import Surroundings
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import DigestOutcome, PageDigests
from sparrow.rpc.messages import PageDigestRequest, VerifyProgress

GRANULE_PAGES: Final = (1 << 20) // PAGE_BYTES
#: Progress is told after this many granules, or at once when pages differ.
TELL_EVERY: Final = 16
CALL_TIMEOUT_S: Final = 5.0
GRANULE_TIMEOUT_S: Final = 30.0
PAUSE_FIRST_S: Final = 0.01
PAUSE_LAST_S: Final = 0.5


async def compare_replicas(volume: Volume, around: Surroundings) -> AsyncGenerator[VerifyProgress]:
    """Compare the volume this node is primary of, granule by granule, while it is in use.

    Raises: NotPrimary; Unavailable when a replica cannot be compared in time.
    """
    total = volume.size_bytes // PAGE_BYTES
    untold: list[int] = []
    progress: VerifyProgress | None = None
    for count, first in enumerate(range(0, total, GRANULE_PAGES), start=1):
        pages = min(GRANULE_PAGES, total - first)
        found = await compare_granule(volume, around, first, pages)
        untold.extend(sorted({*found.different, *found.damaged}))
        finished = first + pages >= total
        progress = VerifyProgress(
            pages_done=first + pages,
            pages_total=total,
            lsn=found.lsn,
            replicas=found.replicas,
            different_pages=tuple(untold),
            finished=finished,
        )
        if finished or untold or count % TELL_EVERY == 0:
            untold = []
            yield progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Some pages of all in-sync replicas at one LSN. A replica with a damaged page is not compared with the others."""

    lsn: Lsn
    replicas: tuple[ReplicaId, ...]
    different: tuple[int, ...]
    damaged: tuple[int, ...]


async def compare_granule(
    volume: Volume, around: Surroundings, first: int, pages: int
) -> Comparison:
    """Compare pages, at most a granule. Raises: NotPrimary, TimedOut."""
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
                    return Comparison(
                        lsn=lsn,
                        replicas=replicas,
                        different=_different(found, first, pages),
                        damaged=tuple(sorted({p for one in found for p in one.damaged_pages})),
                    )
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


def _different(found: list[PageDigests], first: int, pages: int) -> tuple[int, ...]:
    readable = [digests.digests for digests in found if len(digests.digests) == pages * 4]
    return tuple(
        first + index
        for index in range(pages)
        if len({digests[index * 4 : index * 4 + 4] for digests in readable}) > 1
    )
