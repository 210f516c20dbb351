"""Batches in memory: a fixed pool of them, and which stay when they are written, for live peers.

A batch has a reference for its write, one for each send that uses it, and one while it is among the newest of its log:
those are kept so that live peers need no disk read; the rest is read from the ring. What all logs keep together is
bounded too.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.pool cimport page_drop, page_take
from sparrow._native.sys cimport ENOMEM, calloc, free, sp_assert
from sparrow._native.volume cimport Core, Log, MemBatch, Rec, Volume

cdef enum:
    WINDOW_BATCHES = 64       # of one log
    WINDOW_PAGES = 2048

cdef uint64_t NOWHERE = <uint64_t>-1


cdef int batches_open(Core *core, uint32_t count) noexcept nogil:
    cdef uint32_t i
    core.batches = <MemBatch *>calloc(count, sizeof(MemBatch))
    if core.batches == NULL:
        return -ENOMEM
    core.batch_room = count
    core.free_batch = NULL
    for i in range(count):
        core.batches[i].next = core.free_batch
        core.free_batch = &core.batches[i]
    core.free_batches = count
    return 0


cdef void batches_close(Core *core) noexcept nogil:
    free(core.batches)
    core.batches = NULL
    core.free_batch = NULL


cdef MemBatch *batch_take(Core *core, Volume *volume) noexcept nogil:
    cdef MemBatch *batch
    cdef uint8_t *page = page_take(&core.reactor.pool)
    if page == NULL:
        return NULL
    batch = batch_take_header(core, volume, page)
    if batch == NULL:
        page_drop(&core.reactor.pool, page)
    return batch


cdef MemBatch *batch_take_header(Core *core, Volume *volume, uint8_t *page) noexcept nogil:
    cdef MemBatch *batch = core.free_batch
    if batch == NULL:
        return NULL
    core.free_batch = batch.next
    core.free_batches -= 1
    batch.next = NULL
    batch.volume = volume
    batch.refs = 1
    batch.header = page
    batch.page_count = 0
    batch.entry_count = 0
    batch.zero_count = 0
    batch.rec = NOWHERE
    batch.op.busy = False
    return batch


cdef void batch_hold(MemBatch *batch) noexcept nogil:
    batch.refs += 1


cdef void batch_drop(Core *core, MemBatch *batch) noexcept nogil:
    cdef uint32_t i
    sp_assert(batch.refs > 0, b"a batch is dropped that nobody holds")
    batch.refs -= 1
    if batch.refs > 0:
        return
    sp_assert(not batch.op.busy, b"a batch is freed while it is being written")
    page_drop(&core.reactor.pool, batch.header)
    for i in range(batch.page_count):
        page_drop(&core.reactor.pool, batch.pages[i])
    batch.next = core.free_batch
    core.free_batch = batch
    core.free_batches += 1


# ---------------------------------------------------------------- the newest of each log

cdef inline Rec *rec_at(Volume *volume, uint64_t sequence) noexcept nogil:
    return &volume.log.recs[sequence % volume.log.room]


cdef void batch_let_go(Core *core, Volume *volume, Rec *rec) noexcept nogil:
    volume.log.window_pages -= rec.mem.page_count
    core.window_batches -= 1
    core.window_pages -= 1 + rec.mem.page_count
    batch_drop(core, rec.mem)
    rec.mem = NULL


cdef void halve_window(Core *core, Volume *volume) noexcept nogil:
    """The older half leaves. What is not durable yet stays: it cannot be read from the ring."""
    cdef Log *log = &volume.log
    cdef Rec *old
    cdef uint64_t until = log.window_first + (log.next - log.window_first + 1) // 2
    while log.window_first < until:
        old = rec_at(volume, log.window_first)
        if not old.durable:
            break
        if old.mem != NULL:
            batch_let_go(core, volume, old)
        log.window_first += 1


cdef void share_windows(Core *core) noexcept nogil:
    """All windows together leave half of the batches and three quarters of the pages to what is under way.

    Else the windows of volumes that rest, which nothing empties, would take what those at work need.
    """
    cdef Volume *volume
    cdef uint32_t turns = 0
    while turns < core.volume_room and (
        core.window_batches > core.batch_room // 2 or core.window_pages > core.reactor.pool.working // 4
    ):
        turns += 1
        core.window_hand = (core.window_hand + 1) % core.volume_room
        volume = core.volumes[core.window_hand]
        if volume != NULL and volume.log.recs != NULL:
            halve_window(core, volume)


cdef void batch_keep(Volume *volume, MemBatch *batch, Rec *rec) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef Log *log = &volume.log
    cdef Rec *old
    batch_hold(batch)
    rec.mem = batch
    log.window_pages += batch.page_count
    core.window_batches += 1
    core.window_pages += 1 + batch.page_count
    share_windows(core)
    while log.next - log.window_first > WINDOW_BATCHES or (
        log.window_pages > WINDOW_PAGES and log.window_first + 1 < log.next
    ):
        old = rec_at(volume, log.window_first)
        if old.mem != NULL:
            batch_let_go(core, volume, old)
        log.window_first += 1
