"""A read: dirty map first, then sums block, then read cache or extents; adjacent pages share one disk read.

The committed view is the newest version at or below the commit LSN, else the extents: what a client saw can never
vanish with a failover, and a read never waits for a commit. A page read from disk is compared with the sum taken when
the read was submitted. It can differ without damage when the page was flushed meanwhile; then a newer version is in the
dirty map or the sum has changed, and the page is looked up again. A page that differs from an unchanged sum is damaged:
it is never returned; the read waits, bounded, for a peer's page. So it does where the sums block is damaged: then the
extents are believed in nothing. Who waited in vain gets a medium error, or the path error when the gate has closed
meanwhile: another replica may have the page.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.crc cimport crc_page
from sparrow._native.events cimport EVENT_PAGE_DAMAGED, event_up
from sparrow._native.extent.cache cimport (
    cache_fetch_buckets, cache_fetch_pages, cache_fetch_spans, cache_find, cache_gather, cache_put,
)
from sparrow._native.extent.dirty cimport dirty_find
from sparrow._native.extent.sums cimport FRAME_PAGES, frame_fetch, frame_get, frame_put, frame_state, frame_sum
from sparrow._native.gate cimport gate_is_open
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_PAGE_DATA, SP_PAGE_LOST
from sparrow._native.pool cimport PAGE, RUN_MIN, page_drop, page_hold, page_take, page_take_run, pages_rise
from sparrow._native.reactor cimport now_boot, task_queue, timer_set
from sparrow._native.reqlist cimport list_add, list_remove
from sparrow._native.reservations cimport MAY_READ, nexus_may
from sparrow._native.sys cimport EBADMSG, ECANCELED, EIO, ENOMEM, EPERM, ESTALE, calloc, free
from sparrow._native.volume cimport (
    REQ_HELD, REQ_IDLE, REQ_QUEUED, REQ_READING, REQ_WRITE, BlockReq, Core, Frame, ReadRun, Version, Volume, Waiter,
)

cdef enum:
    RUN_PAGES = 64
    TRIES = 3

cdef uint64_t RETRY_NS = 1000000


cdef int reads_open(Core *core, uint32_t runs) noexcept nogil:
    cdef ReadRun *all_runs = <ReadRun *>calloc(runs, sizeof(ReadRun))
    cdef uint32_t i
    if all_runs == NULL:
        return -ENOMEM
    core.runs = all_runs
    core.run_room = runs
    core.free_run = NULL
    for i in range(runs):
        all_runs[i].next = core.free_run
        core.free_run = &all_runs[i]
    return 0


cdef void reads_close(Core *core) noexcept nogil:
    free(core.runs)
    core.runs = NULL
    core.free_run = NULL


cdef void read_start(BlockReq *req) noexcept nogil:
    cdef uint32_t i
    for i in range(req.page_count):
        req.pages[i] = NULL
    req.rc = 0
    req.tries = 0
    req.frame_wait = False
    req.frame_ready = False
    req.state = REQ_READING
    req.volume.reading += 1
    req.waiter.owner = req
    req.waiter.wake = on_frame
    resolve(req)


cdef void read_expect(Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cache_fetch_buckets(core, volume, pages, count)
    frame_fetch(core, volume, pages, count)
    cache_fetch_spans(core, volume, pages, count)
    cache_fetch_pages(core, volume, pages, count)


cdef void finish(BlockReq *req, int rc) noexcept nogil:
    cdef uint32_t i
    req.state = REQ_IDLE
    req.volume.reading -= 1
    if rc == -EIO and not req.internal and not gate_is_open(req.volume):
        # The disk failed, or the term ended, while it waited for a repair: others have the page.
        rc = -ESTALE
    if rc == 0 and not req.internal and not nexus_may(req.volume, req.nexus, MAY_READ):
        rc = -EPERM
    if rc != 0:
        for i in range(req.page_count):
            if req.pages[i] != NULL:
                page_drop(&req.volume.reactor.pool, req.pages[i])
                req.pages[i] = NULL
    req.done(req, rc)


cdef void postpone(BlockReq *req) noexcept nogil:
    """No page, frame or run is free: give everything back and try again in a moment."""
    cdef Volume *volume = req.volume
    cdef uint32_t i
    for i in range(req.page_count):
        if req.pages[i] != NULL:
            page_drop(&volume.reactor.pool, req.pages[i])
            req.pages[i] = NULL
    req.state = REQ_QUEUED
    volume.reading -= 1
    list_add(&volume.queued, req)
    timer_set(volume.reactor, &volume.held_timer, now_boot(volume.reactor) + RETRY_NS)


cdef void resolve(BlockReq *req) noexcept nogil:
    """Find every page that is still missing; starts disk reads for those that are in the extents."""
    cdef Volume *volume = req.volume
    cdef Core *core = <Core *>volume.reactor.core
    # A client sees what it was told is done; everybody else what no failover takes back.
    cdef uint64_t view = volume.commit_lsn if req.internal else max(volume.commit_lsn, volume.ack_lsn)
    cdef Version *version
    cdef Frame *frame = NULL
    cdef ReadRun *run = NULL
    cdef uint8_t *page
    cdef uint64_t number
    cdef uint32_t i, state
    cdef uint32_t cached = 0
    cdef bint short_of = False
    if req.internal and req.lsn != 0:
        view = req.lsn
    elif not req.internal and not nexus_may(volume, req.nexus, MAY_READ):
        req.rc = -EPERM
        req.reads = 1
        one_done(req)
        return
    req.reads = 1                      # this function
    for i in range(req.page_count):
        if req.pages[i] != NULL:
            continue
        number = req.first_page + i
        version = dirty_find(core, volume, number, view)
        if version != NULL:
            page = version.data if version.data != NULL else volume.reactor.pool.zero_page
            page_hold(&volume.reactor.pool, page)
            req.pages[i] = page
            continue
        if frame == NULL or frame.block != number // FRAME_PAGES:
            if frame != NULL:
                frame_put(frame)
            req.frame_wait = True
            req.bad_page = number
            frame = frame_get(core, volume, number, &req.waiter)
            if frame == NULL:
                # Woken when the block is there, or already: then this call is the last to finish.
                submit(run)
                one_done(req)
                return
            req.frame_wait = False
        state = frame_state(frame, number)
        if state == SP_PAGE_LOST:
            # No good copy was there when its block was rebuilt: damage, until a peer has it again or it is written.
            req.bad_page = number
            continue
        if state != SP_PAGE_DATA:
            page_hold(&volume.reactor.pool, volume.reactor.pool.zero_page)
            req.pages[i] = volume.reactor.pool.zero_page
            continue
        if not req.internal:
            page = cache_find(core, volume, number, frame_sum(frame, number))
            if page != NULL:
                page_hold(&volume.reactor.pool, page)
                req.pages[i] = page
                cached += 1
                continue
        # One bad sector fails a whole run: the second time each page is read by itself.
        if run != NULL and (run.count == (RUN_PAGES if req.tries == 0 else 1) or run.first + run.count != i):
            submit(run)
            run = NULL
        page = page_take(&volume.reactor.pool) if req.page_count < RUN_MIN else page_take_run(&volume.reactor.pool)
        if page != NULL and run == NULL:
            run = core.free_run
            if run != NULL:
                core.free_run = run.next
                run.req = req
                run.first = i
                run.count = 0
                req.reads += 1
            else:
                page_drop(&volume.reactor.pool, page)
        if page == NULL or run == NULL:
            short_of = True
            break
        req.pages[i] = page
        run.sums[run.count] = frame_sum(frame, number)
        run.count += 1
    if frame != NULL:
        frame_put(frame)
    submit(run)
    if short_of:
        req.rc = -ENOMEM
    elif cached == req.page_count and cached >= RUN_MIN:
        cache_gather(core, volume, req.first_page, cached, req.pages)
    one_done(req)


cdef void submit(ReadRun *run) noexcept nogil:
    """Its pages hold nothing yet, so any of them may be the first; those that touch in memory become one piece."""
    cdef Volume *volume
    cdef uint8_t **pages
    cdef uint32_t i
    cdef uint32_t pieces = 0
    if run == NULL:
        return
    volume = run.req.volume
    pages = &run.req.pages[run.first]
    pages_rise(pages, run.count)
    for i in range(run.count):
        if pieces != 0 and pages[i] == pages[i - 1] + PAGE:
            run.iov[pieces - 1].iov_len += PAGE
            continue
        run.iov[pieces].iov_base = pages[i]
        run.iov[pieces].iov_len = PAGE
        pieces += 1
    run.op.done = on_read
    run.op.owner = run
    volume.reactor.io.read(
        &volume.reactor.io, &run.op, run.req.fd if run.req.fd != 0 else volume.ext_fd, run.iov, pieces,
        (run.req.first_page + run.first) * PAGE
    )


cdef void on_frame(Waiter *waiter, int rc) noexcept nogil:
    cdef BlockReq *req = <BlockReq *>waiter.owner
    req.frame_wait = False
    if rc == 0:
        # Disk reads already under way finish first: resolve starts from what is missing then.
        req.frame_ready = True
    elif rc == -ENOMEM:
        req.rc = -ENOMEM
    elif req.rc == 0:
        req.rc = rc
    if req.reads == 0:
        req.reads = 1
        one_done(req)


cdef void on_read(Op *op, int32_t res) noexcept nogil:
    cdef ReadRun *run = <ReadRun *>op.owner
    cdef BlockReq *req = run.req
    cdef Volume *volume = req.volume
    cdef Core *core = <Core *>volume.reactor.core
    cdef uint32_t i, at
    for i in range(run.count):
        at = run.first + i
        # What cannot be read is damage too: writing the page anew may mend the sector.
        if res != <int32_t>(run.count * PAGE) or crc_page(req.pages[at]) != run.sums[i]:
            page_drop(&volume.reactor.pool, req.pages[at])
            req.pages[at] = NULL
            req.bad_page = req.first_page + at
        elif not req.internal:
            cache_put(core, volume, req.first_page + at, req.pages[at], run.sums[i])
    run.next = core.free_run
    core.free_run = run
    one_done(req)


cdef void one_done(BlockReq *req) noexcept nogil:
    """The last one to finish decides: complete, look again, wait for a repair, or try later."""
    cdef Volume *volume = req.volume
    cdef uint32_t i
    cdef bint missing = False
    req.reads -= 1
    if req.reads > 0 or req.frame_wait:
        return
    if req.rc == -ENOMEM:
        postpone(req)
        return
    if req.rc == -EBADMSG:
        # Its block's own waiters were told; the frame is rebuilt, or every page of it is marked lost.
        req.rc = 0
        give_to_repair(req)
        return
    if req.rc != 0:
        finish(req, req.rc)
        return
    for i in range(req.page_count):
        if req.pages[i] == NULL:
            missing = True
            break
    if not missing:
        finish(req, 0)
        return
    if req.frame_ready:
        req.frame_ready = False
        resolve(req)
        return
    req.tries += 1
    if req.tries < TRIES:
        resolve(req)
        return
    event_up(volume, EVENT_PAGE_DAMAGED, req.bad_page, 0, 0, 0)
    give_to_repair(req)


cdef void give_to_repair(BlockReq *req) noexcept nogil:
    req.volume.stats.damaged += 1
    if req.internal:
        finish(req, -EIO)
    else:
        await_repair(req)


cdef void await_repair(BlockReq *req) noexcept nogil:
    cdef Volume *volume = req.volume
    req.state = REQ_READING
    req.lsn = now_boot(volume.reactor) + (<Core *>volume.reactor.core).repair_ns
    list_add(&volume.damaged, req)
    if volume.damaged_timer.slot == 0:
        timer_set(volume.reactor, &volume.damaged_timer, req.lsn)


cdef void look_again(BlockReq *req) noexcept nogil:
    cdef Volume *volume = req.volume
    if req.kind == REQ_WRITE and req.taken_back:
        # Its initiator was told, or will be, that it never gets a place in the log.
        finish(req, -ECANCELED)
        return
    if req.kind == REQ_WRITE:
        # Admitted from the beginning, with the gate: time has passed.
        volume.reading -= 1
        req.state = REQ_HELD
        req.lsn = now_boot(volume.reactor) + (<Core *>volume.reactor.core).fence_hold_ns
        list_add(&volume.held, req)
        task_queue(volume.reactor, &volume.resume_task)
        return
    req.lsn = 0
    req.tries = 0
    resolve(req)


cdef void read_repaired(Volume *volume, uint64_t page, int rc) noexcept nogil:
    cdef BlockReq *req = volume.damaged.head
    cdef BlockReq *next_one
    while req != NULL:
        next_one = req.next
        if req.bad_page == page:
            list_remove(&volume.damaged, req)
            if rc == 0:
                look_again(req)
            else:
                finish(req, -EIO)
        req = next_one


cdef void read_block_mended(Volume *volume, uint64_t block) noexcept nogil:
    cdef uint32_t count = volume.damaged.count
    cdef BlockReq *req
    # Who finds more damage goes to the end of the list again: each is looked at once.
    while count > 0 and volume.damaged.head != NULL:
        count -= 1
        req = volume.damaged.head
        list_remove(&volume.damaged, req)
        if req.bad_page // FRAME_PAGES == block:
            look_again(req)
        else:
            list_add(&volume.damaged, req)
