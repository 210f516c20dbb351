"""Repair of what the core found damaged: pages, blocks of checksums, batches of the log, each from other replicas.

The core holds what needs them back, bounded, and takes only what it can prove or what an LSN proves
(``_native/control/pages.pyx``, ``mend.pyx``); here it is decided whom to ask, how often, and when to give up. Without a
replica that can help, the waiting reads fail: a wrong byte is never returned.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sparrow.authority.types import Term
from sparrow.base import events as names
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import DamagedData, NotFound, SparrowError, Unavailable
from sparrow.base.ids import Lsn, ReplicaId, VolumeId
from sparrow.formats.crc32c import crc32c
from sparrow.formats.sums import PAGE_LOST, SUMS_BLOCK
from sparrow.formats.wal import BATCH_BYTES_MAX
from sparrow.node.surroundings import Surroundings
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import BatchDamaged, DigestOutcome, PageDamaged, SumsDamaged
from sparrow.rpc.messages import ReadLogRequest, ReadPageRequest, ReadSumsRequest

CALL_TIMEOUT_S: Final = 5.0
PAUSE_FIRST_S: Final = 0.01
PAUSE_LAST_S: Final = 0.5
PAGE_TRIES: Final = 5
#: Things under repair at one time; more of them wait in the core.
REPAIRS_AT_ONCE: Final = 8
#: A block is given up after so long without a peer that can be reached, or with peers that are not at one LSN with us.
UNREACHED_S: Final = 3.0
APART_S: Final = 10.0
#: Lost pages of a block are asked for again so often while there is somebody to ask; then a scrub finds them.
LOST_AGAIN_S: Final = 5.0
LOST_TRIES: Final = 12


Damage = PageDamaged | SumsDamaged | BatchDamaged


@dataclass(slots=True)
class Repairs:
    """What was found damaged on this node's replica of one volume since the node started."""

    found: int = 0
    repaired: int = 0
    unrepairable: int = 0


class Mender:
    """Takes the core's reports of damage; works on each page and block once at a time.

    Args:
        find: an open volume by its id.
        spawn: starts a task that is stopped with the node.
    """

    def __init__(
        self,
        around: Surroundings,
        *,
        find: Callable[[VolumeId], Volume | None],
        spawn: Callable[[Coroutine[Any, Any, None], str], object],
    ) -> None:
        self._around = around
        self._find = find
        self._spawn = spawn
        self._busy: dict[Damage, asyncio.Future[bool]] = {}
        self._room = asyncio.Semaphore(REPAIRS_AT_ONCE)
        self._repairs: dict[VolumeId, Repairs] = {}

    def repairs(self, volume_id: VolumeId) -> Repairs:
        return self._repairs.setdefault(volume_id, Repairs())

    def take(self, event: Damage) -> None:
        """Begin, unless it is under repair already."""
        self.outcome(event)

    def outcome(self, event: Damage) -> asyncio.Future[bool]:
        """Whether it is repaired; the future of the repair under way, or of one that begins now."""
        under_way = self._busy.get(event)
        if under_way is not None:
            return under_way
        done: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        volume = self._find(event.volume_id)
        if volume is None:
            done.set_result(False)
            return done
        self._busy[event] = done
        self._spawn(self._work(volume, event, done), f"repair:{event}")
        return done

    def batch_at(self, volume_id: VolumeId, lsn: Lsn) -> asyncio.Future[bool] | None:
        """The repair under way of the batch that holds this LSN, or of the first one behind it."""
        found = [
            event
            for event in self._busy
            if isinstance(event, BatchDamaged)
            and event.volume_id == volume_id
            and event.last_lsn >= lsn
        ]
        return self._busy[min(found, key=lambda event: event.last_lsn)] if found else None

    async def _work(self, volume: Volume, event: Damage, done: asyncio.Future[bool]) -> None:
        counts = self.repairs(volume.volume_id)
        counts.found += 1
        repaired = False
        try:
            async with self._room:
                repaired = await self._repair(volume, event)
        except SparrowError as error:
            self._failed(volume, error)
        finally:
            counts.repaired += repaired
            counts.unrepairable += not repaired
            # Damage of the same block is new from here on.
            del self._busy[event]
            if not done.done():
                # Who waited for it may have been cancelled, and this with him.
                done.set_result(repaired)
        if (
            not repaired
            and isinstance(event, SumsDamaged)
            and await self._mend_later(volume, event.block)
        ):
            counts.repaired += 1
            counts.unrepairable -= 1

    def _failed(self, volume: Volume, error: SparrowError) -> None:
        self._around.log.warning(
            names.COMMAND_FAILED, command="repair", volume=volume.volume_id, cause=str(error)
        )

    async def _repair(self, volume: Volume, event: Damage) -> bool:
        match event:
            case PageDamaged():
                return await repair_page(volume, self._around, event.page)
            case SumsDamaged():
                return await mend_sums(volume, self._around, event.block)
            case BatchDamaged():
                return await mend_batch(volume, self._around, event)

    async def _mend_later(self, volume: Volume, block: int) -> bool:
        """Pages were lost because no peer could help in time: ask again, and whoever is alone waits for company."""
        tries = 0
        while tries < LOST_TRIES:
            await asyncio.sleep(LOST_AGAIN_S)
            if self._find(volume.volume_id) is not volume:
                break
            if not helpers(volume):
                continue  # alone
            tries += 1
            try:
                if await fill_block(volume, self._around, block):
                    return True
            except SparrowError as error:
                self._failed(volume, error)
        return False


def page_checksum(data: bytes) -> int:
    """What accompanies a page between nodes: its CRC32C."""
    return crc32c(data)


def knows_its_peers(volume: Volume) -> bool:
    """Whether the line is the newest one, as far as the master said since the start.

    What rotted while the node was down is found as its replicas open. Who is in sync may be others by then.
    """
    return volume.heard_master


def helpers(volume: Volume) -> tuple[ReplicaId, ...]:
    """In-sync replicas other than this one, the primary first: it knows the commit LSN best."""
    if volume.known_line is None:
        return ()
    others = [r for r in volume.line.in_sync if r != volume.replica_id]
    return tuple(sorted(others, key=lambda r: (r != volume.line.primary, r)))


# ---------------------------------------------------------------- a page


async def repair_page(volume: Volume, around: Surroundings, page: int) -> bool:
    """Replace a damaged page by a peer's copy; whether that worked. Reads of it wait meanwhile."""
    log = around.log.bind(volume=volume.volume_id, page=page)
    log.error(names.PAGE_DAMAGED)
    dataplane = around.dataplane
    pause = PAUSE_FIRST_S
    for _try in range(PAGE_TRIES):
        applied = (await dataplane.status(volume.volume_id)).log.applied_lsn
        for replica in helpers(volume):
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
            try:
                repaired = await dataplane.repair_page(
                    volume.volume_id, page, answer.as_of_lsn, answer.data
                )
            except (DamagedData, Unavailable):
                # Not the page our own sum names; or that is lost as well, and the answer is ahead of our commit LSN.
                continue
            log.info(
                names.PAGE_REPAIRED, peer=replica, as_of_lsn=answer.as_of_lsn, installed=repaired
            )
            return True
        await asyncio.sleep(pause)
        pause = min(pause * 4, PAUSE_LAST_S)
    await dataplane.repair_page(volume.volume_id, page, Lsn(0), None)
    log.error(names.PAGE_UNREPAIRABLE)
    return False


# ---------------------------------------------------------------- a block of checksums


class Mending(StrEnum):
    """How one attempt ended."""

    DONE = "done"
    #: Peers answered, at other LSNs than ours.
    APART = "apart"
    #: A peer that may have it cannot be asked now, or is not known yet.
    UNREACHED = "unreached"
    #: Every peer was asked; some pages nobody has.
    LOST = "lost"


async def mend_sums(volume: Volume, around: Surroundings, block: int) -> bool:
    """Rebuild a damaged block from the sums that peers have; whether no page of it was lost.

    What the block was needed for waits meanwhile: reads for two seconds at most, the flusher until it is rebuilt. So it
    is given up in time, each page of it lost, and mended later.
    """
    log = around.log.bind(volume=volume.volume_id, block=block)
    log.error(names.SUMS_DAMAGED)
    began = around.clock()
    pause = PAUSE_FIRST_S
    patience = {Mending.APART: APART_S, Mending.UNREACHED: UNREACHED_S, Mending.LOST: 0.0}
    while True:
        ended = await _mend_once(volume, around, block)
        if ended is Mending.DONE:
            log.info(names.SUMS_REPAIRED)
            return True
        if around.clock() - began >= patience[ended]:
            break
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSE_LAST_S)
    mended = await around.dataplane.mend_sums(volume.volume_id, block, Lsn(0), ())
    log.error(names.SUMS_LOST, lost_pages=mended.lost_pages, cause=ended.value)
    return mended.lost_pages == 0


async def fill_block(volume: Volume, around: Surroundings, block: int) -> bool:
    """Ask once for what a block lacks; whether it lacks nothing now."""
    return await _mend_once(volume, around, block) is Mending.DONE


async def _mend_once(volume: Volume, around: Surroundings, block: int) -> Mending:
    """Ask every peer for the block at our own commit LSN, and install what they have."""
    lsn = (await around.dataplane.status(volume.volume_id)).log.commit_lsn
    request = ReadSumsRequest(volume_id=volume.volume_id, block=block, at_lsn=lsn)
    images: list[bytes] = []
    trouble = Mending.LOST if knows_its_peers(volume) else Mending.UNREACHED
    for replica in helpers(volume):
        try:
            image = await around.calls.read_sums(
                volume.peer(replica).ctrl_addr, request, timeout_s=CALL_TIMEOUT_S
            )
        except DamagedData:
            continue
        except SparrowError:
            trouble = Mending.UNREACHED if trouble is Mending.LOST else trouble
            continue
        if image.outcome is not DigestOutcome.READY:
            trouble = Mending.APART
            continue
        images.append(image.block)
        if not lost_pages(image.block):
            break
    if not images:
        return trouble
    try:
        mended = await around.dataplane.mend_sums(volume.volume_id, block, lsn, tuple(images))
    except (DamagedData, Unavailable):
        return Mending.APART
    if mended.outcome is not DigestOutcome.READY:
        return Mending.APART
    return Mending.DONE if mended.lost_pages == 0 else trouble


def lost_pages(block: bytes) -> list[int]:
    """Indices of the pages of which this block has no sum."""
    at = SUMS_BLOCK.offset_of("states")
    states = block[at : at + SUMS_BLOCK.offset_of("sums") - at]
    return [
        4 * index + place
        for index, four in enumerate(states)
        for place in range(4)
        if four >> (2 * place) & 3 == PAGE_LOST
    ]


# ---------------------------------------------------------------- a batch of the log


async def mend_batch(volume: Volume, around: Surroundings, damaged: BatchDamaged) -> bool:
    """Put a batch back from the identical one of another replica; whether one had it.

    A batch nobody has is let go. Only peers need it by then: this replica has it in memory until it is applied.
    """
    log = around.log.bind(volume=volume.volume_id, first_lsn=damaged.first_lsn)
    log.error(names.BATCH_DAMAGED, last_lsn=damaged.last_lsn)
    began = around.clock()
    pause = PAUSE_FIRST_S
    while True:
        unreached = not knows_its_peers(volume)
        promised = (await around.dataplane.status(volume.volume_id)).promised_epoch
        request = ReadLogRequest(
            volume_id=volume.volume_id,
            term=Term(epoch=promised, start=1),
            from_lsn=damaged.first_lsn,
        )
        for replica in helpers(volume):
            try:
                copy = await _first_chunk(volume, around, replica, request)
                if not copy:
                    continue
                kept = await around.dataplane.mend_batch(volume.volume_id, damaged.first_lsn, copy)
            except (DamagedData, NotFound):
                continue
            except SparrowError:
                unreached = True
                continue
            log.info(names.BATCH_REPAIRED, peer=replica, installed=kept)
            return True
        if not unreached or around.clock() - began >= UNREACHED_S:
            break
        await asyncio.sleep(pause)
        pause = min(pause * 2, PAUSE_LAST_S)
    await around.dataplane.mend_batch(volume.volume_id, damaged.first_lsn, None)
    log.error(names.WAL_LET_GO, to_lsn=damaged.last_lsn)
    return False


async def _first_chunk(
    volume: Volume, around: Surroundings, replica: ReplicaId, request: ReadLogRequest
) -> bytes:
    """The peer's log from there on, as much as one batch can be; empty when it ends before."""
    addr = volume.peer(replica).ctrl_addr
    chunks = around.calls.read_log(addr, request, timeout_s=CALL_TIMEOUT_S)
    async with aclosing(chunks) as stream:
        async for chunk in stream:
            return chunk.batches[:BATCH_BYTES_MAX]
    return b""
