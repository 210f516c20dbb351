"""The base lane of a rebuild, primary's side: granules read through the committed view, each with its as-of LSN.

A session has two passes. The first copies every page at or above the follower's cursor; empty runs are left out, for a
follower that kept anything there is told of what became empty since by its log or by the map. The second copies the
granules below the cursor that changed since the LSN up to which the follower holds everything there, taken from the
map of that member (extent/absence.pyx) when the session began; what is written later comes on the live lane. A fresh
copy has no second pass, a delta no first one.

BASE_MARK carries how far the passes are. A durable one, every few hundred pages, makes the follower write down what it
need not be sent again; no more than three are unanswered, so that little is under way when a link breaks. While the
base lane runs, the live lane stays within a window above the newest as-of LSN the follower was told, for the follower
applies nothing above it and must not run out of memory or log: whatever would raise it comes behind the batches, so a
follower without room for them would never see it. A mark that is not durable opens the window when no granule is about
to, so the live lane waits for the base lane at no rate of copying.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.block cimport block_submit
from sparrow._native.control.prepare cimport KEEP_ALL, KEEP_PAGES
from sparrow._native.crc cimport crc_page
from sparrow._native.extent.absence cimport absence_changed, granule_set
from sparrow._native.layout cimport (
    SP_ABSENCE_GRANULE_PAGES, SP_BASE_HEAD_SIZE, SP_BASE_MARK_SIZE, SP_BASE_PAGES_MAX, SP_BASE_START_SIZE,
    SP_BASE_TABLE_SIZE, SP_BATCH_BYTES_MAX, SP_FRAME_BASE, SP_FRAME_BASE_DONE, SP_FRAME_BASE_MARK, SP_FRAME_BASE_START,
    SP_FRAME_BASE_TABLE, SP_PAGE_DATA, SP_PAGE_ZERO, SP_TABLE_PAGES, sp_base_head, sp_base_mark, sp_base_start,
    sp_base_table,
)
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.reactor cimport Timer, now_boot, task_queue, timer_clear, timer_set
from sparrow._native.replication.compose cimport add_head, add_page
from sparrow._native.replication.pace cimport pace_bound, pace_lane, pace_next, pace_spend
from sparrow._native.reservations cimport table_at
from sparrow._native.sys cimport ENOENT, free, memcpy, memset, sp_crc32c
from sparrow._native.volume cimport (
    REQ_READ, SEND_IOV, SPANS_MAX, BasePlan, BlockReq, Core, Granule, Log, Ship, Table, TermStart, Volume,
)
from sparrow._native.wal.log cimport BLOCK, log_check_at, log_rec

cdef enum:
    LIVE_WINDOW_PAGES = 4096      # above the as-of LSN the follower was told: half of what it holds unapplied
    LIVE_ZEROS = SPANS_MAX // 2   # and zero entries likewise; one batch may go beyond
    MARKS_AHEAD = 3               # durable marks that may be unanswered
    MARK_PAGES_MAX = 16384        # 64 MiB are copied between two of them at most
    GRANULES = 8                  # being read, or read and not sent yet; granules of Ship
    GRANULES_SENT = 4             # by one send
    HEADS_ROOM = 64               # heads of Ship


cdef int base_begin(Ship *ship, const BasePlan *plan) noexcept nogil:
    cdef Volume *volume = ship.volume
    cdef uint64_t page
    ship.plan = plan[0]
    # What clients may use at this moment; a follower whose log goes on knows less while a resize is on its way to it.
    ship.base_end = min(volume.served, plan.pages) if plan.keep == KEEP_ALL else volume.served
    ship.base_page = min(plan.cursor, ship.base_end)
    ship.told_page = ship.base_page
    ship.base_pages = ship.base_end - ship.base_page
    if plan.keep == KEEP_PAGES or (
        plan.keep == KEEP_ALL and plan.from_lsn < plan.base_lsn and plan.patched < plan.cursor
    ):
        ship.changed = absence_changed(volume, plan.uuid, plan.from_lsn)
        if ship.changed == NULL:
            return -ENOENT
        page = 0 if plan.keep == KEEP_PAGES else plan.patched
        while page < plan.cursor:
            if granule_set(ship.changed, page):
                ship.base_pages += SP_ABSENCE_GRANULE_PAGES
            page += SP_ABSENCE_GRANULE_PAGES
    ship.rebuild = True
    ship.base_timer.fire = on_pace
    ship.base_timer.owner = ship
    pace_lane(<Core *>volume.reactor.core, now_boot(volume.reactor), 1)
    return 0


cdef void on_pace(Timer *timer) noexcept nogil:
    cdef Ship *ship = <Ship *>timer.owner
    task_queue(ship.volume.reactor, &ship.task)


cdef bint base_announce(Ship *ship) noexcept nogil:
    """Where the follower's log begins, or that it goes on."""
    cdef Volume *volume = ship.volume
    cdef uint8_t *page
    cdef sp_base_start *body
    cdef TermStart *rows
    cdef const Table *table
    cdef uint32_t check = 0
    cdef uint32_t i
    if ship.plan.keep == KEEP_ALL:
        ship.base_started = add_mark(ship, False)
        return ship.base_started
    # The newest committed one: what is newer than the log's begin comes by the log too.
    table = table_at(volume, volume.commit_lsn)
    if volume.reactor.pool.free_count < (2 + SP_TABLE_PAGES if table != NULL else 1):
        return False
    page = page_take(&volume.reactor.pool)
    body = <sp_base_start *>page
    memset(page, 0, PAGE)
    if not log_check_at(volume, ship.base_as_of, &check):
        page_drop(&volume.reactor.pool, page)
        return False
    body.check = check
    body.size_bytes = ship.base_end * PAGE
    body.cursor = ship.plan.cursor
    body.from_lsn = ship.plan.from_lsn
    if table != NULL:
        add_table(ship, table)
        body.tables = 1
    rows = <TermStart *>&body.terms[0]
    for i in range(volume.log.term_count):
        if volume.log.terms[i].first_lsn <= ship.base_as_of:
            rows[i] = volume.log.terms[i]
            body.term_rows = i + 1
    body.body_check = sp_crc32c(0, body, SP_BASE_START_SIZE)
    add_head(ship, SP_FRAME_BASE_START, PAGE, ship.base_as_of)
    add_page(ship, page)
    ship.base_started = True
    return True


cdef void add_table(Ship *ship, const Table *table) noexcept nogil:
    """There are pages for it, the caller looked."""
    cdef Volume *volume = ship.volume
    cdef uint8_t *page = page_take(&volume.reactor.pool)
    cdef sp_base_table *head = <sp_base_table *>page
    cdef uint32_t i
    memset(page, 0, PAGE)
    head.table_check = table.check
    head.lsn = table.lsn
    head.check = sp_crc32c(0, head, SP_BASE_TABLE_SIZE)
    add_head(ship, SP_FRAME_BASE_TABLE, (1 + SP_TABLE_PAGES) * PAGE, ship.base_as_of)
    add_page(ship, page)
    for i in range(SP_TABLE_PAGES):
        page = page_take(&volume.reactor.pool)
        memcpy(page, table.blob + <uint64_t>i * PAGE, PAGE)
        add_page(ship, page)


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


# ---------------------------------------------------------------- marks

cdef uint32_t mark_pages(Volume *volume) noexcept nogil:
    """A quarter of a percent of the volume: with three marks under way, and a few granules that were being read when the
    last of them went, an interruption costs less than one percent."""
    return <uint32_t>min(max(volume.pages // 384, <uint64_t>SP_BASE_PAGES_MAX), <uint64_t>MARK_PAGES_MAX)


cdef uint32_t granules_ahead(Ship *ship) noexcept nogil:
    """So many are read at once: few against what lies between two marks, and one where a bound makes each wait its turn."""
    if pace_bound(<Core *>ship.volume.reactor.core):
        return 1
    return max(min(mark_pages(ship.volume) // (4 * SP_BASE_PAGES_MAX), <uint32_t>GRANULES), <uint32_t>1)


cdef bint add_mark(Ship *ship, bint durable) noexcept nogil:
    """False: there is no page for it now."""
    cdef Volume *volume = ship.volume
    cdef uint8_t *page = page_take(&volume.reactor.pool)
    cdef sp_base_mark *mark = <sp_base_mark *>page
    if page == NULL:
        task_queue(volume.reactor, &ship.task)
        return False
    memset(page, 0, PAGE)
    mark.flags = 1 if durable else 0
    mark.cursor = ship.base_end if ship.told_second else ship.told_page
    # While the first pass runs, nothing below the cursor has been made up for yet.
    mark.patched = min(ship.told_page, ship.plan.cursor) if ship.told_second else ship.plan.patched
    mark.check = sp_crc32c(0, mark, SP_BASE_MARK_SIZE)
    if ship.granule_count == 0:
        # No granule is being read or waits, so all that come will be as new as this.
        ship.base_as_of = volume.commit_lsn
    add_head(ship, SP_FRAME_BASE_MARK, PAGE, ship.base_as_of)
    add_page(ship, page)
    live_above(ship, ship.base_as_of)
    if durable:
        ship.unmarked = 0
        ship.marks_sent += 1
    return True


# ---------------------------------------------------------------- granules

cdef void base_go_on(Ship *ship) noexcept nogil:
    cdef Volume *volume = ship.volume
    cdef Core *core = <Core *>volume.reactor.core
    cdef uint64_t due
    cdef uint32_t count
    if ship.base_done or not send_granules(ship):
        return
    if ship.granule_count == 0 and not live_may_go(ship) and volume.commit_lsn > ship.base_as_of and not add_mark(ship, False):
        return
    while (
        ship.granule_count < granules_ahead(ship) and ship.marks_sent - ship.marks_acked < MARKS_AHEAD
        and ship.unmarked < mark_pages(volume)
    ):
        count = next_run(ship)
        if count == 0:
            break
        due = pace_next(core, now_boot(volume.reactor))
        if due != 0:
            if ship.base_timer.slot == 0:
                timer_set(volume.reactor, &ship.base_timer, due)
            return
        read_granule(ship, count)
    if ship.granule_count == 0 and ship.head_count < HEADS_ROOM and next_run(ship) == 0:
        # Everything committed until now must be durable there before the copy counts as whole.
        add_head(ship, SP_FRAME_BASE_DONE, 0, volume.commit_lsn)
        ship.base_done = True
        pace_lane(core, now_boot(volume.reactor), -1)


cdef bint send_granules(Ship *ship) noexcept nogil:
    """Those that are read, in order, and the marks between them. False: no page is free, the task looks again."""
    cdef uint32_t sent = 0
    cdef Granule *granule
    while True:
        if ship.unmarked >= mark_pages(ship.volume):
            if ship.head_count >= HEADS_ROOM:
                return True
            if not add_mark(ship, True):
                return False
        if ship.granule_count == 0:
            return True
        granule = &ship.granules[ship.granule_first]
        if granule.reading:
            return True
        if not worth_sending(ship, granule):
            granule_drop(ship, granule)
        elif (
            sent == GRANULES_SENT or ship.head_count + 1 >= HEADS_ROOM
            or ship.iov_count + 3 + SP_BASE_PAGES_MAX >= SEND_IOV
        ):
            return True
        elif not add_granule(ship, granule):
            return False
        else:
            sent += 1
        ship.told_page = granule.req.first_page + granule.req.page_count
        ship.told_second = granule.second
        ship.base_looked += granule.req.page_count
        ship.granule_first = (ship.granule_first + 1) % GRANULES
        ship.granule_count -= 1


cdef uint32_t next_run(Ship *ship) noexcept nogil:
    """Moves base_page to the next page to be copied; pages from there on, 0 when both passes are done. A run lies within
    64 aligned pages, so within one sums block."""
    cdef Volume *volume = ship.volume
    cdef uint64_t end
    cdef uint64_t page
    if not ship.second and ship.base_page >= ship.base_end:
        ship.second = True
        ship.base_page = ship.plan.patched if ship.plan.keep == KEEP_ALL else 0
    if not ship.second:
        end = min(ship.base_page // SP_BASE_PAGES_MAX * SP_BASE_PAGES_MAX + SP_BASE_PAGES_MAX, ship.base_end)
        return <uint32_t>(end - ship.base_page)
    if ship.changed == NULL:
        return 0
    while ship.base_page < ship.plan.cursor and not granule_set(ship.changed, ship.base_page):
        ship.base_page = ship.base_page // SP_ABSENCE_GRANULE_PAGES * SP_ABSENCE_GRANULE_PAGES + SP_ABSENCE_GRANULE_PAGES
    if ship.base_page >= ship.plan.cursor:
        return 0
    end = min(ship.base_page // SP_BASE_PAGES_MAX * SP_BASE_PAGES_MAX + SP_BASE_PAGES_MAX, ship.plan.cursor)
    page = ship.base_page
    while page < end and granule_set(ship.changed, page):
        page = page // SP_ABSENCE_GRANULE_PAGES * SP_ABSENCE_GRANULE_PAGES + SP_ABSENCE_GRANULE_PAGES
    return <uint32_t>(min(page, end) - ship.base_page)


cdef void read_granule(Ship *ship, uint32_t count) noexcept nogil:
    cdef Granule *granule = &ship.granules[(ship.granule_first + ship.granule_count) % GRANULES]
    cdef BlockReq *req = &granule.req
    granule.ship = ship
    granule.reading = True
    granule.second = ship.second
    # Taken before the pages are looked up: what is read is at least as new as it says.
    granule.as_of = ship.volume.commit_lsn
    req.volume = ship.volume
    req.kind = REQ_READ
    req.internal = True
    req.first_page = ship.base_page
    req.page_count = count
    req.lsn = 0
    req.done = on_granule
    req.owner = granule
    ship.granule_count += 1
    ship.granule_reads += 1
    ship.base_page += count
    block_submit(req)


cdef bint worth_sending(const Ship *ship, const Granule *granule) noexcept nogil:
    """An empty run is, if it may have held something that the follower still has."""
    cdef uint8_t *zero = ship.volume.reactor.pool.zero_page
    cdef uint32_t i
    for i in range(granule.req.page_count):
        if granule.req.pages[i] != zero or (
            ship.changed != NULL and granule_set(ship.changed, granule.req.first_page + i)
        ):
            return True
    return False


cdef void on_granule(BlockReq *req, int rc) noexcept nogil:
    """The link's task goes on with it, also when the link is over."""
    cdef Granule *granule = <Granule *>req.owner
    cdef Ship *ship = granule.ship
    granule.reading = False
    ship.granule_reads -= 1
    if rc != 0:
        # It has no pages.
        req.page_count = 0
        ship.base_failed = True
    task_queue(ship.volume.reactor, &ship.task)


cdef bint add_granule(Ship *ship, const Granule *granule) noexcept nogil:
    """As a BASE frame; False, and later, when there is no page for its head now."""
    cdef Volume *volume = ship.volume
    cdef uint8_t *zero = volume.reactor.pool.zero_page
    cdef uint8_t *page = page_take(&volume.reactor.pool)
    cdef sp_base_head *head = <sp_base_head *>page
    cdef uint32_t i
    if page == NULL:
        task_queue(volume.reactor, &ship.task)
        return False
    memset(page, 0, PAGE)
    head.first_page = granule.req.first_page
    head.page_count = granule.req.page_count
    for i in range(granule.req.page_count):
        head.states[i] = SP_PAGE_ZERO
        if granule.req.pages[i] != zero:
            head.states[i] = SP_PAGE_DATA
            head.sums[i] = crc_page(granule.req.pages[i])
            head.data_count += 1
    head.check = sp_crc32c(0, head, SP_BASE_HEAD_SIZE)
    ship.base_as_of = granule.as_of
    add_head(ship, SP_FRAME_BASE, (1 + head.data_count) * PAGE, ship.base_as_of)
    add_page(ship, page)
    for i in range(granule.req.page_count):
        if granule.req.pages[i] != zero:
            add_page(ship, granule.req.pages[i])
        else:
            page_drop(&volume.reactor.pool, zero)
    live_above(ship, ship.base_as_of)
    ship.unmarked += granule.req.page_count
    ship.peer.base_bytes += (1 + head.data_count) * PAGE
    pace_spend(<Core *>volume.reactor.core, now_boot(volume.reactor), (1 + head.data_count) * PAGE)
    return True


cdef void granule_drop(Ship *ship, const Granule *granule) noexcept nogil:
    cdef uint32_t i
    for i in range(granule.req.page_count):
        page_drop(&ship.volume.reactor.pool, granule.req.pages[i])


cdef void base_stop(Ship *ship) noexcept nogil:
    timer_clear(ship.volume.reactor, &ship.base_timer)
    if ship.rebuild and not ship.base_done:
        ship.base_done = True
        pace_lane(<Core *>ship.volume.reactor.core, now_boot(ship.volume.reactor), -1)


cdef void base_end(Ship *ship) noexcept nogil:
    while ship.granule_count > 0:
        granule_drop(ship, &ship.granules[ship.granule_first])
        ship.granule_first = (ship.granule_first + 1) % GRANULES
        ship.granule_count -= 1
    free(ship.changed)
    ship.changed = NULL
