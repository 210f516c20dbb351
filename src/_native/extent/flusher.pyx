"""The flusher: newest committed version of each page, sorted by page, then the checkpoint that lets the log go.

Order of a round, each step durable before the next: extents data, flush (sync.pyx), list of the sums blocks
(seals.pyx), sums, flush, absence maps, table of reservations, superblock (applied LSN and log tail, both copies); only
then may the log's space be used again.

Safety argument. Nothing above min(commit, durable) is applied, so what a failover may cut off the log is never in the
extents. A crash inside a round leaves pages whose sums are old, but all of them lie in (applied, target] of a log that
has not been released: recovery puts their full images back into the dirty map, which every read asks first. While a
replica is being rebuilt nothing above the as-of LSN of the newest base frame is applied, so a base page that arrives
later is never older than what it overwrites.

Pages go past the page cache, in runs of up to 64 KiB: no copy, no worker of the ring, and never more than eight writes
in the device's queue before a client's log write. Reads that the read cache does not serve, and the pages of a rebuild,
go through the page cache. The kernel keeps the two views one as long as no page of the page cache is dirtied where a
write goes past it: clean ones it drops, one that is dirtied meanwhile it cannot, and the next fdatasync would fail.
Only the base lane and the repair of a page write extents through the page cache. While a replica is being rebuilt the
flusher does so too: the core is quiet when that begins, and the base is durable, so clean, before it ends. A repair
waits until the flusher is idle, holds it still and syncs its page.

Zero entries are applied by states alone: no data is written, and a page whose newest version lies below a zero entry of
the round is not written at all. When a round is complete the puncher may give their place back.

A round that meets a damaged sums block, or a full pool, is given up half-way and begun again later. That is safe for
the same reason as a crash there: all it wrote is still in the log and in the dirty map. `extents_lsn` remembers how far
such a round may have come, for whoever wants to know what the extents hold as of an exact LSN.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.extent.absence cimport absence_list, absence_mark_round, absence_stale, absence_write
from sparrow._native.extent.behind cimport behind_round, behind_target
from sparrow._native.extent.dirty cimport dirty_drop_to, dirty_zeroed
from sparrow._native.extent.punch cimport punch_hint, punch_init, punch_some, punch_wanted
from sparrow._native.extent.room cimport room_update
from sparrow._native.extent.rounds cimport round_crowded, round_largest, round_returned, round_time
from sparrow._native.extent.seals cimport seals_begin, seals_free, seals_go_on, seals_init, seals_synced
from sparrow._native.extent.sync cimport sync_file
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_RESERVATION_BYTES, SP_STATE_REBUILDING
from sparrow._native.merge cimport merge_refresh
from sparrow._native.pool cimport PAGE
from sparrow._native.reservations cimport table_applied, table_due, table_name, table_spare_at
from sparrow._native.resize cimport resize_applied, resize_checkpoint
from sparrow._native.reactor cimport Task, Timer, now_boot, task_queue, timer_clear, timer_set
from sparrow._native.sys cimport EBADMSG, EDQUOT, ENOMEM, ENOSPC, calloc, free, sp_assert
from sparrow._native.volume cimport (
    NONE, REQ_PAGES_MAX, Core, Flush, FlushIo, FlushItem, Span, Table, Version, Volume, Waiter,
)
from sparrow._native.waiters cimport wake_all, wake_reached, waiter_add
from sparrow._native.wal.condemn cimport condemn
from sparrow._native.wal.damage cimport log_anchor
from sparrow._native.wal.joint cimport joint_settle
from sparrow._native.wal.keep cimport keep_release, keep_releasable
from sparrow._native.wal.log cimport log_age, log_free_bytes
from sparrow._native.wal.reach cimport reach_covers, reach_note_own
from sparrow._native.wal.superblock cimport super_write

cdef extern from "<stdlib.h>" nogil:
    void qsort(void *base, size_t count, size_t size, int (*compare)(const void *, const void *) noexcept nogil)

cdef enum:
    IO_SLOTS = 8
    # Past the page cache. With all slots 512 KiB are in the device's queue at once, which a log write has to wait for; with
    # 64 pages to a run it was 2 MiB, and durable writes of 128 KiB took half as long again.
    DIRECT_PAGES = 16
    # Through it, in a rebuild. A page that is new to the page cache gets a folio as large as the write that brings it, and every later write of
    # 4 KiB pays for all blocks of the folio it falls into (ext4_block_write_begin, mpage_process_page_bufs). 64 pages at
    # once made random writes a fifth dearer than 8 do; 8 make sequential ones 8 % dearer (processor time of the node).
    BUFFERED_PAGES = 8
    ROUND_PAGES = 2048          # so many versions start a round without waiting for the timer
    ROUND_SPANS = 32            # or so many zero entries

cdef enum FlushStage:
    STAGE_IDLE = 0
    STAGE_EXTENTS = 1
    STAGE_SYNC_EXTENTS = 2
    STAGE_SUMS = 3
    STAGE_SYNC_SUMS = 4
    STAGE_ABSENCES = 5
    STAGE_SUPER = 6
    STAGE_PUNCH = 7             # not of a round: places are given back
    STAGE_TABLE = 8             # between the absence maps and the superblock
    STAGE_REACH = 9             # before the extents, in a rebuild

cdef uint64_t NOWHERE = <uint64_t>-1
cdef uint64_t QUIET_NS = 1000000000


cdef int by_page(const void *a, const void *b) noexcept nogil:
    cdef uint64_t x = (<const FlushItem *>a).page
    cdef uint64_t y = (<const FlushItem *>b).page
    return -1 if x < y else (1 if x > y else 0)


cdef uint64_t flush_target(Volume *volume) noexcept nogil:
    cdef uint64_t lsn = min(volume.commit_lsn, volume.log.durable_lsn)
    if volume.super.now.state == SP_STATE_REBUILDING:
        lsn = min(lsn, volume.base_as_of)
    return lsn


cdef bint log_is_full(Volume *volume) noexcept nogil:
    """Less than a quarter free. A round frees two fifths, so the next is not due at once."""
    return log_free_bytes(volume) * 4 < volume.log.bytes


cdef void run_flush(Task *task) noexcept nogil:
    cdef Volume *volume = <Volume *>task.owner
    cdef Flush *flush = &volume.flush
    cdef uint64_t target = flush_target(volume)
    if flush.stage != STAGE_IDLE or volume.condemned or volume.frozen or not volume.opened or (
        volume.quiet_waiters != NULL
    ):
        flush.wanted = False
        return
    if volume.suspect and not volume.primary:
        # A checkpoint would write both superblock copies: that one was lost must not be forgotten before it rejoined.
        return
    if volume.views > 0:
        # Whoever ends the last of them queues this task. A base lane always has some: it must leave room for a round.
        flush.wanted = round_due(volume, target)
        return
    flush.wanted = False
    if flush.waiters != NULL:
        wake_reached(&flush.waiters, volume.super.now.applied_lsn)
    if round_due(volume, target):
        # With nothing to apply, a map is to be listed, or applied batches fill the log: only the tail moves.
        begin(volume, volume.applied_lsn if tail_only(volume) else max(target, volume.applied_lsn))
        return
    if target <= volume.applied_lsn:
        flush.urgent = False
    elif round_asked(volume):
        return
    if punch_wanted(volume):
        flush.stage = STAGE_PUNCH
        punch_some(volume)
        return
    if target > volume.applied_lsn and flush.timer.slot == 0:
        timer_set(volume.reactor, &flush.timer, round_time(<Core *>volume.reactor.core, now_boot(volume.reactor)))


cdef bint round_due(Volume *volume, uint64_t target) noexcept nogil:
    cdef Flush *flush = &volume.flush
    if target <= volume.applied_lsn:
        return volume.absence_due or (flush.urgent and keep_releasable(volume, volume.applied_lsn) != 0)
    return round_asked(volume) and (flush.due or not flush.given_up)


cdef bint round_asked(Volume *volume) noexcept nogil:
    cdef Flush *flush = &volume.flush
    return (
        flush.urgent
        or flush.due
        or volume.absence_due
        or flush.waiters != NULL
        or volume.version_count >= behind_round(volume, ROUND_PAGES)
        or volume.span_count >= ROUND_SPANS
        or log_is_full(volume)
        or put_off_too_long(volume)
    )


cdef bint tail_only(Volume *volume) noexcept nogil:
    """Is a log that fills up all that asks, of a replica that catches up, and is there what it can let go of?"""
    cdef Flush *flush = &volume.flush
    return (
        behind_round(volume, 0) != 0
        and not flush.urgent
        and not flush.due
        and not volume.absence_due
        and flush.waiters == NULL
        and volume.version_count < behind_round(volume, ROUND_PAGES)
        and volume.span_count < ROUND_SPANS
        and not put_off_too_long(volume)
        and keep_releasable(volume, volume.applied_lsn) != 0
    )


cdef bint put_off_too_long(Volume *volume) noexcept nogil:
    return (
        volume.flush.timer.slot != 0
        and volume.flush.rc == 0        # else the timer is that of a round that was given up
        and round_crowded(<Core *>volume.reactor.core)
        and log_age(volume, volume.applied_lsn, now_boot(volume.reactor)) >= QUIET_NS
    )


cdef void begin(Volume *volume, uint64_t target) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef Version *versions = core.dirty.versions
    cdef Flush *flush = &volume.flush
    cdef uint32_t at = volume.fifo_head
    cdef uint32_t count = 0
    cdef Span *span
    if flush.timer.slot != 0 and flush.rc == 0:
        round_returned(core)
    timer_clear(volume.reactor, &flush.timer)
    flush.due = False
    target = behind_target(volume, target)
    flush.target = target
    volume.extents_lsn = max(volume.extents_lsn, target)
    flush.rc = 0
    flush.at = 0
    if volume.super.now.state == SP_STATE_REBUILDING:
        flush.fd = volume.ext_fd
        flush.run_pages = BUFFERED_PAGES
    else:
        flush.fd = volume.ext_direct_fd
        flush.run_pages = DIRECT_PAGES
    while at != NONE and versions[at].lsn <= target:
        if (versions[at].newer == NONE or versions[versions[at].newer].lsn > target) and dirty_zeroed(
            volume, versions[at].page, versions[at].lsn, target
        ) == 0:
            sp_assert(count < core.versions_per_volume, b"a round fits its list")
            flush.list[count].page = versions[at].page
            flush.list[count].version = at
            count += 1
        at = versions[at].fifo_next
    flush.count = count
    flush.span_count = 0
    while flush.span_count < volume.span_count and volume.spans[flush.span_count].lsn <= target:
        span = &volume.spans[flush.span_count]
        punch_hint(volume, span.first_page, span.end_page - span.first_page, span.lsn)
        flush.span_count += 1
    qsort(flush.list, count, sizeof(FlushItem), by_page)
    absence_mark_round(volume)
    if volume.super.now.state == SP_STATE_REBUILDING and not reach_covers(volume, target):
        flush.stage = STAGE_REACH
        flush.step.wake = on_reach
        flush.step.owner = volume
        reach_note_own(volume, target)
        super_write(volume, &flush.step)
        return
    flush.stage = STAGE_EXTENTS
    write_extents(volume)


cdef void stand_still(Volume *volume) noexcept nogil:
    """A round is over, well or not: whoever waits for that goes on."""
    volume.flush.stage = STAGE_IDLE
    if volume.quiet_waiters != NULL:
        task_queue(volume.reactor, &volume.quiet_task)
    if volume.follow != NULL:
        task_queue(volume.reactor, &volume.follow.task)


cdef void on_reach(Waiter *waiter, int rc) noexcept nogil:
    cdef Volume *volume = <Volume *>waiter.owner
    if rc == 0:
        volume.flush.stage = STAGE_EXTENTS
        write_extents(volume)
        return
    stand_still(volume)


cdef void write_extents(Volume *volume) noexcept nogil:
    """Keep up to eight writes of adjacent pages under way."""
    cdef Core *core = <Core *>volume.reactor.core
    cdef Version *versions = core.dirty.versions
    cdef Flush *flush = &volume.flush
    cdef FlushIo *io
    cdef Version *version
    cdef uint64_t first
    cdef uint32_t slot, n, pieces
    for slot in range(IO_SLOTS):
        io = &flush.io[slot]
        if io.op.busy or flush.rc != 0:
            continue
        while flush.at < flush.count and versions[flush.list[flush.at].version].data == NULL:
            flush.at += 1
        if flush.at == flush.count:
            break
        first = flush.list[flush.at].page
        n = 0
        pieces = 0
        while flush.at < flush.count and n < flush.run_pages and flush.list[flush.at].page == first + n:
            version = &versions[flush.list[flush.at].version]
            if version.data == NULL:
                break
            if pieces != 0 and <uint8_t *>io.iov[pieces - 1].iov_base + io.iov[pieces - 1].iov_len == version.data:
                io.iov[pieces - 1].iov_len += PAGE
            else:
                io.iov[pieces].iov_base = version.data
                io.iov[pieces].iov_len = PAGE
                pieces += 1
            n += 1
            flush.at += 1
        io.volume = volume
        io.bytes = n * PAGE
        io.op.done = on_extent_written
        io.op.owner = io
        flush.inflight += 1
        volume.reactor.io.write(&volume.reactor.io, &io.op, flush.fd, io.iov, pieces, first * PAGE, False)
    if flush.inflight > 0:
        return
    if flush.rc != 0:
        give_up(volume, 2)
        return
    flush.stage = STAGE_SYNC_EXTENTS
    flush.step.wake = on_synced
    flush.step.owner = volume
    sync_file(&volume.ext_sync, &flush.step)


cdef void on_extent_written(Op *op, int32_t res) noexcept nogil:
    cdef FlushIo *io = <FlushIo *>op.owner
    cdef Volume *volume = io.volume
    volume.flush.inflight -= 1
    if res != <int32_t>io.bytes and volume.flush.rc == 0:
        # A short buffered write means that the pool had room for a part only.
        volume.flush.rc = res if res < 0 else -ENOSPC
    write_extents(volume)


cdef void give_up(Volume *volume, int file) noexcept nogil:
    """A full pool is tried again every second, so is a damaged sums block, and at once when it is mended; nothing is lost
    meanwhile. Whoever asks for a round in between waits for that: each writes all that is unapplied once more.

    Any other failure ends the replica.
    """
    cdef Flush *flush = &volume.flush
    stand_still(volume)
    flush.given_up = True
    if flush.rc == -EBADMSG:
        if volume.closing:
            wake_all(&flush.waiters, flush.rc)
        timer_set(volume.reactor, &flush.timer, now_boot(volume.reactor) + QUIET_NS)
        return
    if flush.rc == -ENOSPC or flush.rc == -EDQUOT:
        volume.pool_full = True
        room_update(volume)
        # Queued writes get their error now instead of waiting for room that may never come.
        task_queue(volume.reactor, &volume.resume_task)
        if volume.closing:
            # What is not applied stays in the log; the next opening goes on.
            wake_all(&flush.waiters, flush.rc)
        timer_set(volume.reactor, &flush.timer, now_boot(volume.reactor) + QUIET_NS)
        return
    condemn(volume, file, flush.rc)


cdef void on_synced(Waiter *waiter, int rc) noexcept nogil:
    cdef Volume *volume = <Volume *>waiter.owner
    cdef Flush *flush = &volume.flush
    if rc < 0:
        # After a failed flush nobody knows what is on the disk: never tried again, full pool or not.
        condemn(volume, 2 if flush.stage == STAGE_SYNC_EXTENTS else 3, rc)
        stand_still(volume)
        return
    if flush.stage == STAGE_SYNC_EXTENTS:
        flush.stage = STAGE_SUMS
        seals_begin(volume)
        return
    seals_synced(volume)
    flush.step.owner = volume
    if absence_stale(volume):
        flush.stage = STAGE_ABSENCES
        flush.step.wake = on_absences
        absence_write(volume, &flush.step)
    else:
        store_table(volume)


cdef void on_absences(Waiter *waiter, int rc) noexcept nogil:
    cdef Volume *volume = <Volume *>waiter.owner
    if rc < 0:
        volume.flush.rc = rc
        give_up(volume, 5)
        return
    store_table(volume)


cdef void store_table(Volume *volume) noexcept nogil:
    """The table of reservations as of the target goes to the slot that the superblock does not name (reservations.pyx)."""
    cdef Flush *flush = &volume.flush
    cdef Table *table = table_due(volume, flush.target)
    if table == NULL:
        checkpoint(volume)
        return
    flush.stage = STAGE_TABLE
    volume.table_iov.iov_base = table.blob
    volume.table_iov.iov_len = SP_RESERVATION_BYTES
    volume.table_op.done = on_table_stored
    volume.table_op.owner = volume
    volume.reactor.io.write(
        &volume.reactor.io, &volume.table_op, volume.super.fd, &volume.table_iov, 1, table_spare_at(volume), True
    )


cdef void on_table_stored(Op *op, int32_t res) noexcept nogil:
    cdef Volume *volume = <Volume *>op.owner
    if res != <int32_t>SP_RESERVATION_BYTES:
        # A short write: the slots of an older replica are not allocated yet, and there was room for a part only.
        volume.flush.rc = res if res < 0 else -ENOSPC
        give_up(volume, 4)
        return
    checkpoint(volume)


cdef void checkpoint(Volume *volume) noexcept nogil:
    """The superblock says what is in the extents now, and where the log begins."""
    cdef Flush *flush = &volume.flush
    cdef Table *table = table_due(volume, flush.target)
    flush.stage = STAGE_SUPER
    keep_release(volume, flush.target)
    absence_list(volume)
    volume.super.now.applied_lsn = flush.target
    log_anchor(volume, flush.target)
    resize_checkpoint(volume, flush.target)
    joint_settle(volume)
    if table != NULL:
        table_name(volume, table)
    flush.step.wake = on_super
    super_write(volume, &flush.step)


cdef void on_sealed(Volume *volume, int file) noexcept nogil:
    """The blocks of checksums are written in place, or something failed."""
    cdef Flush *flush = &volume.flush
    if flush.rc != 0:
        give_up(volume, file)
        return
    flush.stage = STAGE_SYNC_SUMS
    flush.step.wake = on_synced
    flush.step.owner = volume
    sync_file(&volume.sums_sync, &flush.step)


cdef void on_super(Waiter *waiter, int rc) noexcept nogil:
    cdef Volume *volume = <Volume *>waiter.owner
    cdef Flush *flush = &volume.flush
    stand_still(volume)
    if rc < 0:
        return
    volume.applied_lsn = flush.target
    resize_applied(volume, flush.target)
    table_applied(volume, flush.target)
    merge_refresh(volume, flush.target)
    dirty_drop_to(<Core *>volume.reactor.core, volume, flush.target)
    flush.urgent = False
    flush.given_up = False
    volume.punch.wait = False
    if volume.pool_full:
        volume.pool_full = False
        room_update(volume)
    wake_reached(&flush.waiters, flush.target)
    task_queue(volume.reactor, &volume.resume_task)
    task_queue(volume.reactor, &flush.task)


cdef void on_timer(Timer *timer) noexcept nogil:
    cdef Volume *volume = <Volume *>timer.owner
    if volume.flush.stage == STAGE_SUMS:
        seals_go_on(volume)
        return
    volume.flush.due = True
    volume.punch.wait = False
    task_queue(volume.reactor, &volume.flush.task)


cdef void on_punched(Volume *volume) noexcept nogil:
    """The puncher did a part; rounds go first if one is due."""
    stand_still(volume)
    task_queue(volume.reactor, &volume.flush.task)


cdef void flush_urge(Volume *volume) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef Volume *other
    volume.flush.urgent = True
    task_queue(volume.reactor, &volume.flush.task)
    if core.dirty.used + REQ_PAGES_MAX > core.dirty.room:
        # Who asks may hold little of what all of them share.
        other = round_largest(core, volume)
        if other != NULL:
            flush_again(other)


cdef void flush_again(Volume *volume) noexcept nogil:
    volume.flush.due = True
    task_queue(volume.reactor, &volume.flush.task)


cdef void flush_to(Volume *volume, Waiter *waiter) noexcept nogil:
    waiter_add(&volume.flush.waiters, waiter)
    task_queue(volume.reactor, &volume.flush.task)


cdef bint flush_idle(Volume *volume) noexcept nogil:
    return volume.flush.stage == STAGE_IDLE


cdef int flush_init(Volume *volume) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    volume.flush.list = <FlushItem *>calloc(core.versions_per_volume, sizeof(FlushItem))
    if volume.flush.list == NULL:
        return -ENOMEM
    volume.flush.task.run = run_flush
    volume.flush.task.owner = volume
    volume.flush.timer.fire = on_timer
    volume.flush.timer.owner = volume
    punch_init(volume, on_punched)
    return seals_init(volume, on_sealed)


cdef void flush_end(Volume *volume) noexcept nogil:
    timer_clear(volume.reactor, &volume.flush.timer)
    free(volume.flush.list)
    volume.flush.list = NULL
    seals_free(volume)
