"""Scrubs: everything a replica has on its disk is read and held against its checksums, before somebody needs it.

One replica of a node at a time, in this order: both copies of the superblock, the retained batches of the log, then
block by block the checksums, the pages they cover, and, on the primary, the same pages of the other in-sync replicas
at one common LSN. What is damaged is repaired on the way (``mending``).

A scrub keeps below a rate, and takes a quarter of the time at most while clients are at work. Its cursor is written
down every few seconds: a node that starts again goes on where it was. A replica whose last scrub is older than
``every_s`` is scrubbed by itself, a new one first after that time.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from sparrow.authority.types import ReplicaState
from sparrow.base import events as names
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import SparrowError
from sparrow.base.ids import Lsn
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.node.mending import Mender, fill_block
from sparrow.node.surroundings import Surroundings
from sparrow.node.verify import compare_granule
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import AtRest, PageDamaged, SumsDamaged
from sparrow.rpc.messages import ScrubStatus

STEP_PAGES: Final = 192  # a fifth of a block
#: How often it is looked whether a scrub is due.
LOOK_S: Final = 60.0
SAVE_EVERY_S: Final = 5.0
#: While clients are at work a scrub rests three times as long as a step took.
YIELD: Final = 3.0
#: A page is looked at again after its repair; more often than this it is left to the next scrub.
TURNS_MORE: Final = 8
#: Pages of which a replica is being repaired are compared again so often, then by the next scrub.
LOOKS: Final = 3
#: A superblock that may not be mended yet, or replicas that cannot be compared now, are tried again after this.
AGAIN_S: Final = 0.5


@dataclass(slots=True)
class Progress:
    """What is kept of one replica's scrub. ``block`` is the next one to be looked at."""

    running: bool = False
    block: int = 0
    batches: int = 0
    damaged: int = 0
    repaired: int = 0
    unrepairable: int = 0
    different: int = 0
    #: Unix times, seconds.
    known_since: float = 0.0
    finished_at: float = 0.0


class Scrubs:
    """The scrubs of one node.

    Args:
        volumes: the open replicas.
        files: where the progress of a replica is kept, by its uuid.
        every_s: 0 for only when asked.
        wall: Unix time.
        aside: does what writes to the pool, one after the other, where waiting for a disk that hangs stops nobody.
    """

    def __init__(
        self,
        around: Surroundings,
        mender: Mender,
        *,
        volumes: Callable[[], tuple[Volume, ...]],
        files: Callable[[str], Path],
        every_s: float,
        bytes_per_s: int,
        wall: Callable[[], float] = time.time,
        aside: Callable[[Callable[[], None]], object] = lambda work: work(),
    ) -> None:
        self._around = around
        self._mender = mender
        self._volumes = volumes
        self._files = files
        self._every_s = every_s
        self._bytes_per_s = bytes_per_s
        self._wall = wall
        self._aside = aside
        self._known: dict[str, Progress] = {}
        self._wake = asyncio.Event()

    def begin(self, volume: Volume) -> None:
        """Scrub it from the beginning, as soon as no other is running; one that runs goes on."""
        progress = self._progress(volume)
        if not progress.running:
            self._known[volume.uuid] = Progress(
                running=True, known_since=progress.known_since, finished_at=progress.finished_at
            )
            self.save(volume)
        self._wake.set()

    def status(self, volume: Volume) -> ScrubStatus:
        progress = self._progress(volume)
        total = volume.size_bytes // PAGE_BYTES
        done = min(progress.block * PAGES_PER_BLOCK, total) if progress.running else total
        return ScrubStatus(
            replica_id=volume.replica_id,
            running=progress.running,
            pages_done=done if progress.running or progress.finished_at else 0,
            pages_total=total,
            batches=progress.batches,
            damaged=progress.damaged,
            repaired=progress.repaired,
            unrepairable=progress.unrepairable,
            different=progress.different,
            finished_at=progress.finished_at,
        )

    def forget(self, uuid: str) -> None:
        """The replica is deleted: so is what was kept of it."""
        self._known.pop(uuid, None)
        path = self._files(uuid)

        def unlink() -> None:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

        self._aside(unlink)

    async def run(self) -> None:
        """Scrub what is due or asked for, one after the other, for as long as the node runs."""
        while True:
            self._wake.clear()
            for volume in self._volumes():
                if self._due(volume) and not self._progress(volume).running:
                    self.begin(volume)
            waiting = [v for v in self._volumes() if self._progress(v).running and _fit(v)]
            if not waiting:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
                continue
            for volume in waiting:
                await self._scrub(volume)

    def _due(self, volume: Volume) -> bool:
        progress = self._progress(volume)
        since = max(progress.finished_at, progress.known_since)
        return self._every_s > 0 and self._wall() - since >= self._every_s

    async def _scrub(self, volume: Volume) -> None:
        progress = self._progress(volume)
        log = self._around.log.bind(volume=volume.volume_id, replica=volume.replica_id)
        log.info(
            names.SCRUB_RESUMED if progress.block else names.SCRUB_STARTED, block=progress.block
        )
        try:
            await _Pass(volume, progress, self._around, self._mender, self).run()
        except SparrowError as error:
            # It was closed, or its disk failed: what is left is done when it is open again.
            log.warning(names.SCRUB_STOPPED, block=progress.block, cause=str(error))
            await asyncio.sleep(AGAIN_S)
            return
        finally:
            self.save(volume)
        if progress is not self._known.get(volume.uuid):
            return
        progress.running = False
        progress.block = 0
        progress.finished_at = self._wall()
        self.save(volume)
        log.info(
            names.SCRUB_FINISHED,
            batches=progress.batches,
            damaged=progress.damaged,
            repaired=progress.repaired,
            unrepairable=progress.unrepairable,
            different=progress.different,
        )

    async def pace(self, size_bytes: int, took_s: float, *, busy: bool) -> None:
        """Rest after a step."""
        rest_s = size_bytes / self._bytes_per_s - took_s
        if busy:
            rest_s = max(rest_s, YIELD * took_s)
        await asyncio.sleep(max(0.0, rest_s))

    # ------------------------------------------------------------ what outlives the process

    def _progress(self, volume: Volume) -> Progress:
        known = self._known.get(volume.uuid)
        if known is None:
            kept = _read(self._files(volume.uuid))
            known = self._known[volume.uuid] = kept or Progress(known_since=self._wall())
            if kept is None:
                self.save(volume)
        return known

    def save(self, volume: Volume) -> None:
        """Lost with the power it costs some reading; a pool without room keeps the old one."""
        if volume.uuid not in self._known:
            return
        path = self._files(volume.uuid)
        text = json.dumps(asdict(self._known[volume.uuid]))

        def write() -> None:
            fresh = path.with_suffix(".new")
            with contextlib.suppress(OSError):
                path.parent.mkdir(exist_ok=True)
                fresh.write_text(text)
                fresh.replace(path)

        self._aside(write)


class _Pass:
    """One walk over one replica, from where its progress stands."""

    def __init__(
        self,
        volume: Volume,
        progress: Progress,
        around: Surroundings,
        mender: Mender,
        owner: Scrubs,
    ) -> None:
        self._volume = volume
        self._id = volume.volume_id
        self._progress = progress
        self._around = around
        self._dataplane = around.dataplane
        self._mender = mender
        self._owner = owner
        self._seen: tuple[int, int] | None = None

    async def run(self) -> None:
        if self._progress.block == 0:
            self._progress.batches = 0
            await self._superblock()
            await self._log()
        total = self._volume.size_bytes // PAGE_BYTES
        saved_at = self._around.clock()
        while self._progress.block * PAGES_PER_BLOCK < total:
            await self._block(self._progress.block, total)
            self._progress.block += 1
            if self._around.clock() - saved_at >= SAVE_EVERY_S:
                saved_at = self._around.clock()
                self._owner.save(self._volume)

    async def _superblock(self) -> None:
        if await self._dataplane.check_superblock(self._id) is not AtRest.WHOLE:
            self._count(repaired=True)
            self._around.log.error(names.SUPERBLOCK_REPAIRED, volume=self._id)

    async def _log(self) -> None:
        """Batch by batch up to what was the end when it began; what comes later is as new as can be."""
        end = (await self._dataplane.status(self._id)).log.durable_lsn
        lsn = Lsn(0)
        while lsn <= end:
            began = self._around.clock()
            found = await self._dataplane.check_batch(self._id, lsn)
            if found is None:
                return
            self._progress.batches += 1
            if found.state is AtRest.REWRITTEN:
                self._count(repaired=True)
            elif found.state is AtRest.DAMAGED:
                await self._batch(lsn)
            lsn = found.next_lsn
            await self._rest(found.size_bytes, began)

    async def _batch(self, lsn: Lsn) -> None:
        """A damaged one: its repair began with the core's report, which came before this answer.

        Put back, or let go because nobody has it: either way the log holds no damage any more, and nothing is lost.
        """
        under_way = self._mender.batch_at(self._id, lsn)
        if under_way is not None:
            await under_way
        self._count(repaired=True)

    async def _block(self, block: int, total: int) -> None:
        found = await self._dataplane.check_sums(self._id, block)
        if found.state is AtRest.REWRITTEN:
            self._count(repaired=True)
        elif found.state is AtRest.DAMAGED:
            event = SumsDamaged(volume_id=self._id, block=block, errno=0)
            self._count(repaired=await self._mender.outcome(event))
        if found.lost_pages:
            await fill_block(self._volume, self._around, block)
        end = min((block + 1) * PAGES_PER_BLOCK, total)
        for first in range(block * PAGES_PER_BLOCK, end, STEP_PAGES):
            began = self._around.clock()
            count = min(STEP_PAGES, end - first)
            await self._pages(first, count)
            await self._compare(first, count)
            await self._rest(count * PAGE_BYTES, began)

    async def _pages(self, first: int, count: int) -> None:
        end = first + count
        for _turn in range(count + TURNS_MORE):
            if first == end:
                return
            page = await self._dataplane.check_pages(self._id, first, end - first)
            if page is None:
                return
            event = PageDamaged(volume_id=self._id, page=page)
            repaired = await self._mender.outcome(event)
            self._count(repaired=repaired)
            if not repaired:
                # The core names any that is damaged: those before it may be so too.
                await self._pages(first, page - first)
                first = page + 1

    async def _compare(self, first: int, count: int) -> None:
        """The primary's part. Replicas that cannot be compared now are, by the next scrub."""
        if self._volume.primacy is None or len(self._volume.line.in_sync) < 2:
            return
        for _look in range(LOOKS):
            try:
                found = await compare_granule(self._volume, self._around, first, count)
            except SparrowError:
                return
            if found.different:
                self._progress.different += len(found.different)
                self._around.log.error(
                    names.REPLICAS_DIFFERED, volume=self._id, pages=found.different
                )
            if found.different or not found.damaged:
                return
            # It is being repaired where it was found damaged; then that replica can be compared too.
            await asyncio.sleep(AGAIN_S)

    def _count(self, *, repaired: bool) -> None:
        self._progress.damaged += 1
        if repaired:
            self._progress.repaired += 1
        else:
            self._progress.unrepairable += 1

    async def _rest(self, size_bytes: int, began: float) -> None:
        status = await self._dataplane.status(self._id)
        done = (status.reads, status.writes)
        busy = self._seen is not None and done != self._seen
        self._seen = done
        await self._owner.pace(size_bytes, self._around.clock() - began, busy=busy)


def _fit(volume: Volume) -> bool:
    """A copy that is unfinished, set aside or of a failed disk is not read through."""
    return volume.state is ReplicaState.CLEAN and not volume.disk_failed


def _read(path: Path) -> Progress | None:
    """What was kept; None when nothing, or nothing that makes sense, was."""
    try:
        fields: dict[str, Any] = json.loads(path.read_text())
        return Progress(**fields)
    except (OSError, ValueError, TypeError):
        return None
