"""The base lane of a rebuild, primary's side: granules read through the committed view, each with its as-of LSN.

While it runs, the live lane stays within a window above the as-of LSN of the last base frame, for the follower applies
nothing above it and must not run out of memory or log: the next base frame comes behind the batches, so a follower
without room for them would never see it.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.block cimport block_submit
from sparrow._native.crc cimport crc_page
from sparrow._native.layout cimport (
    SP_BASE_HEAD_SIZE, SP_BASE_PAGES_MAX, SP_BASE_START_SIZE, SP_BATCH_BYTES_MAX, SP_FRAME_BASE, SP_FRAME_BASE_DONE,
    SP_FRAME_BASE_START, SP_PAGE_DATA, sp_base_head, sp_base_start,
)
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.reactor cimport task_queue
from sparrow._native.replication.compose cimport SEND_HEADS, add_head, add_page
from sparrow._native.sys cimport memset, sp_crc32c
from sparrow._native.volume cimport REQ_READ, SEND_IOV, SPANS_MAX, BlockReq, Log, Ship, TermStart, Volume
from sparrow._native.wal.log cimport BLOCK, log_check_at, log_rec

cdef enum:
    LIVE_WINDOW_PAGES = 4096      # above the as-of LSN of the last base frame: half of what a follower holds unapplied
    LIVE_ZEROS = SPANS_MAX // 2   # and zero entries likewise; one batch may go beyond


cdef bint base_announce(Ship *ship) noexcept nogil:
    cdef Volume *volume = ship.volume
    cdef uint8_t *page = page_take(&volume.reactor.pool)
    cdef sp_base_start *body = <sp_base_start *>page
    cdef TermStart *rows
    cdef uint32_t check = 0
    cdef uint32_t i
    if page == NULL:
        return False
    memset(page, 0, PAGE)
    if not log_check_at(volume, ship.base_start, &check):
        page_drop(&volume.reactor.pool, page)
        return False
    body.check = check
    body.size_bytes = ship.base_end * PAGE
    rows = <TermStart *>&body.terms[0]
    for i in range(volume.log.term_count):
        if volume.log.terms[i].first_lsn <= ship.base_start:
            rows[i] = volume.log.terms[i]
            body.term_rows = i + 1
    body.body_check = sp_crc32c(0, body, SP_BASE_START_SIZE)
    add_head(ship, SP_FRAME_BASE_START, PAGE, ship.base_start)
    add_page(ship, page)
    ship.base_started = True
    ship.base_as_of = ship.base_start
    return True


# ---------------------------------------------------------------- the live lane's window

cdef uint32_t live_window(Volume *volume) noexcept nogil:
    """Pages. A follower has two fifths of its ring free for what it cannot apply; one batch may go beyond, three are
    the margin of its log, and one is wasted at the end of the ring."""
    cdef uint64_t blocks = volume.log.bytes // BLOCK * 2 // 5
    cdef uint64_t margin = 5 * (SP_BATCH_BYTES_MAX // BLOCK)
    return <uint32_t>min(<uint64_t>LIVE_WINDOW_PAGES, blocks - margin if blocks > margin else 1)


cdef bint live_may_go(Ship *ship) noexcept nogil:
    return not ship.rebuild or ship.base_done or (
        ship.live_pages <= live_window(ship.volume) and ship.live_zeros <= LIVE_ZEROS
    )


cdef void live_above(Ship *ship, uint64_t lsn) noexcept nogil:
    """Count what was shipped that the follower cannot apply while its base is as of this LSN."""
    cdef Log *log = &ship.volume.log
    cdef uint64_t at = ship.cursor
    ship.live_pages = 0
    ship.live_zeros = 0
    while at > log.first and log_rec(ship.volume, at - 1).last_lsn > lsn:
        at -= 1
        ship.live_pages += log_rec(ship.volume, at).bytes // BLOCK
        ship.live_zeros += log_rec(ship.volume, at).zeros


# ---------------------------------------------------------------- granules

cdef void base_go_on(Ship *ship) noexcept nogil:
    cdef Volume *volume = ship.volume
    if ship.base_done or ship.head_count >= SEND_HEADS:
        return
    if ship.base_ready and ship.iov_count + 2 + SP_BASE_PAGES_MAX < SEND_IOV:
        add_granule(ship)
    if ship.base_ready or ship.base_reading:
        return
    if ship.base_page >= ship.base_end:
        # Everything committed until now must be durable there before the copy counts as whole.
        add_head(ship, SP_FRAME_BASE_DONE, 0, volume.commit_lsn)
        ship.base_done = True
    else:
        read_granule(ship)


cdef void read_granule(Ship *ship) noexcept nogil:
    cdef BlockReq *req = &ship.base_req
    req.volume = ship.volume
    req.kind = REQ_READ
    req.internal = True
    req.first_page = ship.base_page
    req.page_count = <uint32_t>min(<uint64_t>SP_BASE_PAGES_MAX, ship.base_end - ship.base_page)
    req.lsn = 0
    req.done = on_granule
    req.owner = ship
    ship.base_reading = True
    # Taken before the pages are looked up: what is read is at least as new as it says.
    ship.base_as_of = ship.volume.commit_lsn
    block_submit(req)


cdef void on_granule(BlockReq *req, int rc) noexcept nogil:
    """The link's task goes on with it, also when the link is over."""
    cdef Ship *ship = <Ship *>req.owner
    cdef uint8_t *zero = ship.volume.reactor.pool.zero_page
    cdef uint32_t i
    cdef bint empty = True
    ship.base_reading = False
    task_queue(ship.volume.reactor, &ship.task)
    if rc != 0:
        ship.base_failed = True
        return
    ship.base_ready = True
    for i in range(req.page_count):
        if req.pages[i] != zero:
            empty = False
            break
    if empty and live_may_go(ship):
        # The follower began with nothing but holes. When the live lane waits, the frame's as-of LSN lets it go on.
        base_release(ship)
        ship.base_page += req.page_count


cdef void add_granule(Ship *ship) noexcept nogil:
    """The granule that was read, as a BASE frame; later when there is no page for its head now."""
    cdef Volume *volume = ship.volume
    cdef uint8_t *zero = volume.reactor.pool.zero_page
    cdef uint8_t *page = page_take(&volume.reactor.pool)
    cdef sp_base_head *head = <sp_base_head *>page
    cdef uint32_t i
    if page == NULL:
        task_queue(volume.reactor, &ship.task)
        return
    memset(page, 0, PAGE)
    head.first_page = ship.base_req.first_page
    head.page_count = ship.base_req.page_count
    for i in range(ship.base_req.page_count):
        if ship.base_req.pages[i] != zero:
            head.states[i] = SP_PAGE_DATA
            head.sums[i] = crc_page(ship.base_req.pages[i])
            head.data_count += 1
    head.check = sp_crc32c(0, head, SP_BASE_HEAD_SIZE)
    add_head(ship, SP_FRAME_BASE, (1 + head.data_count) * PAGE, ship.base_as_of)
    add_page(ship, page)
    for i in range(ship.base_req.page_count):
        if ship.base_req.pages[i] != zero:
            add_page(ship, ship.base_req.pages[i])
        else:
            page_drop(&volume.reactor.pool, zero)
    ship.base_ready = False
    live_above(ship, ship.base_as_of)
    ship.base_page += ship.base_req.page_count


cdef void base_release(Ship *ship) noexcept nogil:
    cdef uint32_t i
    if not ship.base_ready:
        return
    for i in range(ship.base_req.page_count):
        page_drop(&ship.volume.reactor.pool, ship.base_req.pages[i])
    ship.base_ready = False
