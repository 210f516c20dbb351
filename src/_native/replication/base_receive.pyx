"""The base lane of a rebuild, follower's side: pages into the extents, their states and sums, and when it is complete.

Safety argument. One installed page: a base frame carries the commit LSN `as_of` it was read at, frames come in order,
and their as-of LSNs never go back. Nothing above the newest as-of LSN heard is applied meanwhile, so what was applied to
a page before its base copy came is part of the copy. Entries at or below the as-of LSN that are applied afterwards may
take the page back for a while, but the log is applied in order and up to that LSN, so it ends where the copy was, and
goes on from there. So once everything up to `as_of` is applied, an installed page holds exactly what the log says.

One session: BASE_TABLE brings the table of reservations, if there is one, which is durable in its slot before anything
else of the session is taken (reservations.pyx). BASE_START says where the log begins (`pin`, the commit LSN then), the lanes carry the rest. The replica
becomes `clean` only when the base is durable and the log has reached the commit LSN of the moment the base ended, which
no as-of LSN is above.

What is kept when a session is interrupted. Four fields of the superblock speak of a replica that is being rebuilt:

    base_cursor    every page below it was installed, or needed no installing, and is durable
    base_lsn       the log of this replica holds everything above it, up to the log's end
    base_from      pages below the cursor hold every entry up to it: at most base_lsn, and less when entries between the
                   two were written while no session ran, and this replica's log could not be continued
    base_patched   pages below it miss nothing of what lies between the two: changed ones were copied again

They are written with a durable BASE_MARK, and with them up to which LSN pages may reach (wal/reach.pyx). Frames are taken
meanwhile, and the next marks too.

Several at once. Up to INSTALLS frames are being written at the same time, so the pages of a later one may land first.
Nobody can tell: two frames that speak of one page are never under way together, the flusher and the puncher stand still
(`views`) until none is, and a rebuilding replica is read by nobody. The as-of LSN of a frame counts from the moment it is
taken, not from when it is written: the flusher, which may go up to it, begins when all that were taken are written. It
is let in, for a base lane that never paused would keep it out for ever (`flush.wanted`). A sums block is written with
what all frames that wait for it bring, one write at a time, so a block in the file is never half of two versions.

What a mark claims. Every frame that came before it is written, pages and sums, and the flushes of both files that it
waits for (extent/sync.pyx) began after that; so its cursor is true when they have ended, whatever is written beside them. That lies behind the cursor, or is the
flusher's and still in the log: after a crash pages there may not be what the sums say, and are copied again or applied
again before anybody reads them. In the second pass the same holds of `base_patched` and of the changed granules at or
above it. Of two the later one says all that the earlier says, so the superblock takes the larger; marks that wait for a flush at
one time share the next. An error of a flush or of a frame before it voids a mark and ends the session. So does one that
has condemned the replica meanwhile, for the superblock of a condemned replica takes nothing more. The end of the copy waits
for every frame and every mark, for a replica that is clean has no cursor. `behind` tells the kernel to begin with the
pages at once, so that the flush of a mark finds little left to do; nothing is concluded from it.

When a mark is acknowledged. When the first superblock copy says what it claims. The primary concludes from it only how much more it
may send, and a session that begins later finds what that copy says, or something newer (wal/superblock.pyx). Would
that copy be lost too, the other one says less, and more is copied again. The second copy is part of the same update, so what
comes behind it, as that the replica is clean, is written when both say what the mark said.

The next session, of whichever primary,
finds one of two cases (control/prepare.pyx). The log goes on: the primary's log still has the entry after the last one
that both have. Nothing was missed then, for all that was committed while no session ran is shipped, and the argument
about one page holds across the interruption: its as-of LSN was a commit LSN, so all entries up to it are in every
primary's log, at the same LSNs, and are applied here. Or the log begins anew at the pin of the new session: everything
in (base_from, pin] may be missing below the cursor, and the second pass copies what the primary's map says was touched
since base_from. Base frames are as of `pin` or later and everything applied here was committed by then, so the order of
LSNs holds from one session to the next. Pages at or above the cursor are copied whatever they hold.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.commit cimport commit_hear
from sparrow._native.crc cimport crc_page
from sparrow._native.extent.flusher cimport flush_idle
from sparrow._native.extent.punch cimport punch_hint
from sparrow._native.extent.sums cimport FRAME_PAGES, frame_get, frame_put, frame_seal, frame_set, frame_zero
from sparrow._native.extent.sync cimport sync_file
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_BASE_HEAD_SIZE, SP_BASE_MARK_SIZE, SP_BASE_PAGES_MAX, SP_BASE_START_SIZE, SP_BASE_TABLE_SIZE, SP_PAGE_DATA,
    SP_PAGE_ZERO, SP_RESERVATION_BYTES, SP_STATE_CLEAN, SP_STATE_REBUILDING, SP_TABLE_PAGES, SP_TERM_ROWS_MAX,
    sp_base_head, sp_base_mark, sp_base_start, sp_base_table, sp_superblock,
)
from sparrow._native.pool cimport PAGE, page_drop
from sparrow._native.reactor cimport task_queue
from sparrow._native.reservations cimport (
    table_discard, table_install, table_name, table_new, table_spare_at, table_tell, table_valid,
)
from sparrow._native.resize cimport resize_files, resize_tell
from sparrow._native.sys cimport EAGAIN, EBADMSG, EDQUOT, EIO, ENOMEM, ENOSPC, EPROTO, memcpy, sp_crc32c
from sparrow._native.volume cimport (
    INSTALL_FREE, INSTALL_PAGES, INSTALL_SUMS, INSTALL_WRITTEN, MARK_FLUSHED, MARK_FREE, MARK_SUPER, MARK_WAITS, Core, Follow,
    Frame, Install, Mark, Table, TermStart, Volume, Waiter,
)
from sparrow._native.wal.damage cimport log_anchor
from sparrow._native.wal.condemn cimport condemn
from sparrow._native.wal.reach cimport reach_covers, reach_note
from sparrow._native.wal.superblock cimport super_write, super_write_first

cdef enum:
    INSTALLS = 8               # frames under way; installs of Follow
    MARKS_OPEN = 4             # durable marks under way; marks_open of Follow
    BEHIND_PAGES = 128         # written back as soon as so many are there
    BEHIND_PAGES_MAX = 65536

cdef uint64_t FOREVER = <uint64_t>-1


cdef int base_start(Follow *follow) noexcept nogil:
    """The log, which is empty, begins after the pinned LSN, with the primary's term table."""
    cdef Volume *volume = follow.volume
    cdef sp_base_start *body = <sp_base_start *>follow.body[0]
    cdef TermStart *rows = <TermStart *>&body.terms[0]
    cdef uint32_t check = body.body_check
    cdef uint64_t pin = follow.frame.as_of_lsn
    cdef uint32_t i
    cdef uint64_t pages = body.size_bytes // PAGE
    body.body_check = 0
    if check != sp_crc32c(0, body, SP_BASE_START_SIZE) or body.term_rows > SP_TERM_ROWS_MAX:
        return -EBADMSG
    if volume.super.now.state != SP_STATE_REBUILDING or volume.log.head_lsn != 0 or pin < volume.super.now.base_from:
        return -EPROTO
    if body.tables != (1 if follow.base_tabled else 0):
        return -EPROTO
    if not flush_idle(volume):
        # A round that lists a map began before there was a log: its end would take back the LSN this sets.
        body.body_check = check
        return -EAGAIN
    if not resize_files(volume, pages):
        body.body_check = check
        return -EAGAIN
    volume.pages = pages
    volume.served = pages
    volume.super.now.size_bytes = body.size_bytes
    resize_tell(volume)
    volume.log.head_lsn = pin
    volume.log.durable_lsn = pin
    volume.log.tail_lsn = pin
    volume.log.head_check = body.check
    volume.log.tail_check = body.check
    volume.log.free_lsn = pin
    for i in range(body.term_rows):
        volume.log.terms[i] = rows[i]
    volume.log.term_count = body.term_rows
    volume.commit_lsn = pin
    table_tell(volume)
    volume.applied_lsn = pin
    volume.extents_lsn = pin
    volume.base_as_of = pin
    volume.super.now.applied_lsn = pin
    log_anchor(volume, pin)
    volume.super.now.base_lsn = pin
    volume.super.now.base_patched = 0
    reach_note(volume, follow.epoch, follow.start, pin)
    if volume.super.now.base_cursor == 0:
        volume.super.now.base_from = pin
    volume.super.now.tail_lsn = pin
    volume.super.now.tail_check = body.check
    volume.super.now.tail_offset = volume.log.head_offset
    volume.log.tail_offset = volume.log.head_offset
    super_write(volume, NULL)
    return 0


cdef int base_table(Follow *follow) noexcept nogil:
    """The table of reservations that the session begins with: into the spare slot."""
    cdef Volume *volume = follow.volume
    cdef sp_base_table *head = <sp_base_table *>follow.body[0]
    cdef uint32_t check = head.check
    cdef Table *table
    cdef uint32_t i
    if volume.super.now.state != SP_STATE_REBUILDING or volume.log.head_lsn != 0 or follow.base_tabled:
        return -EPROTO
    if not flush_idle(volume):
        return -EAGAIN
    head.check = 0
    if check != sp_crc32c(0, head, SP_BASE_TABLE_SIZE) or head.lsn == 0:
        return -EBADMSG
    head.check = check
    table = table_new(head.lsn)
    if table == NULL:
        return -EAGAIN
    for i in range(SP_TABLE_PAGES):
        memcpy(table.blob + <uint64_t>i * PAGE, follow.body[1 + i], PAGE)
    table.check = sp_crc32c(0, table.blob, SP_RESERVATION_BYTES)
    if table.check != head.table_check or not table_valid(table.blob):
        table_discard(table)
        return -EBADMSG
    follow.base_table = table
    follow.base_busy = True
    volume.views += 1
    follow.base_iov[0].iov_base = table.blob
    follow.base_iov[0].iov_len = SP_RESERVATION_BYTES
    follow.base_op.done = on_table_stored
    volume.reactor.io.write(
        &volume.reactor.io, &follow.base_op, volume.super.fd, follow.base_iov, 1, table_spare_at(volume), True
    )
    return 0


cdef void on_table_stored(Op *op, int32_t res) noexcept nogil:
    cdef Follow *follow = <Follow *>op.owner
    cdef Volume *volume = follow.volume
    cdef Table *table = follow.base_table
    follow.base_table = NULL
    if res != <int32_t>SP_RESERVATION_BYTES:
        table_discard(table)
        finish(follow, res if res < 0 else -ENOSPC)
        return
    if follow.over:
        # A preparation may be under way that has forgotten every table.
        table_discard(table)
    else:
        # Named in memory, and on the disk with what BASE_START says.
        table_install(volume, table)
        table_name(volume, table)
        follow.base_tabled = True
    finish(follow, 0)


cdef int base_install(Follow *follow) noexcept nogil:
    """Begin to write a frame. The link goes on: up to INSTALLS are under way, and what is said of one page by two of them
    is written in the order it came."""
    cdef Volume *volume = follow.volume
    cdef sp_base_head *head = <sp_base_head *>follow.body[0]
    cdef uint32_t check = head.check
    cdef Install *install
    cdef uint32_t i
    cdef uint32_t n = 0
    if volume.super.now.state != SP_STATE_REBUILDING or volume.log.head_lsn == 0:
        return -EPROTO
    # The flusher and the base lane write the extents in turns, else an older page could land last.
    if not flush_idle(volume) or (volume.flush.wanted and follow.installing > 0):
        return -EAGAIN
    if not may_reach(follow, head.first_page):
        return -EAGAIN
    install = a_place(follow, head)
    if install == NULL:
        return -EAGAIN
    head.check = 0
    if (
        check != sp_crc32c(0, head, SP_BASE_HEAD_SIZE)
        or head.page_count > SP_BASE_PAGES_MAX
        or head.first_page > volume.pages
        or head.page_count > volume.pages - head.first_page
        or head.data_count + 1 != follow.body_pages
        or head.first_page // SP_BASE_PAGES_MAX != (head.first_page + head.page_count - 1) // SP_BASE_PAGES_MAX
        or head.page_count == 0
        or follow.frame.as_of_lsn < volume.base_as_of
        or follow.frame.as_of_lsn < volume.applied_lsn
    ):
        return -EBADMSG
    for i in range(head.page_count):
        if head.states[i] == SP_PAGE_DATA:
            n += 1
            if n > head.data_count or crc_page(follow.body[n]) != head.sums[i]:
                return -EBADMSG
    if n != head.data_count:
        return -EBADMSG
    head.check = check
    # The flusher stands still until all that are under way are written, so it never applies beyond what they bring.
    volume.base_as_of = follow.frame.as_of_lsn
    follow.base_witness = max(follow.base_witness, frame_reach(follow))
    volume.extents_lsn = max(volume.extents_lsn, volume.base_as_of)
    volume.views += 1
    follow.installing += 1
    follow.arrived += 1
    install.follow = follow
    install.stage = INSTALL_PAGES
    install.number = follow.arrived
    install.as_of = follow.frame.as_of_lsn
    install.at = 0
    install.run = 0
    install.pages = follow.body_pages
    for i in range(follow.body_pages):
        install.body[i] = follow.body[i]
    follow.body_pages = 0
    install.op.done = on_base_written
    install.op.owner = install
    commit_hear(volume, follow.frame.commit_lsn)
    write_base(install)
    return 0


cdef inline uint64_t frame_reach(const Follow *follow) noexcept nogil:
    """The newest entry that its pages may hold. They are at least as new as its as-of LSN, and may be as new as what had
    committed when it was sent: a read that waits, for checksums or for memory, takes what has committed by then."""
    return max(follow.frame.as_of_lsn, follow.frame.commit_lsn)


cdef bint may_reach(Follow *follow, uint64_t first_page) noexcept nogil:
    """A page below the cursor becomes newer only when the superblock says so (wal/reach.pyx)."""
    cdef Volume *volume = follow.volume
    if first_page >= volume.super.now.base_cursor or reach_covers(volume, frame_reach(follow)):
        return True
    if not follow.reaching:
        follow.reaching = True
        follow.reach_waiter.wake = on_reach
        follow.reach_waiter.owner = follow
        reach_note(volume, follow.epoch, follow.start, frame_reach(follow))
        super_write(volume, &follow.reach_waiter)
    return False


cdef void on_reach(Waiter *waiter, int rc) noexcept nogil:
    cdef Follow *follow = <Follow *>waiter.owner
    follow.reaching = False
    if rc < 0:
        spoil(follow, rc)
    task_queue(follow.volume.reactor, &follow.task)


cdef Install *a_place(Follow *follow, const sp_base_head *head) noexcept nogil:
    """A free one; NULL while there is none, or while one is under way that speaks of the same pages."""
    cdef Install *install = NULL
    cdef const sp_base_head *other
    cdef int i
    for i in range(INSTALLS):
        if follow.installs[i].stage == INSTALL_FREE:
            install = &follow.installs[i]
            continue
        other = <const sp_base_head *>follow.installs[i].body[0]
        if head.first_page < other.first_page + other.page_count and other.first_page < head.first_page + head.page_count:
            return NULL
    return install


cdef void write_base(Install *install) noexcept nogil:
    """One run of adjacent data pages after the other, then the sums."""
    cdef Follow *follow = install.follow
    cdef Volume *volume = follow.volume
    cdef sp_base_head *head = <sp_base_head *>install.body[0]
    cdef uint8_t *page
    cdef uint32_t pieces = 0
    cdef uint32_t n = 0
    cdef uint64_t first
    while install.at < head.page_count and head.states[install.at] != SP_PAGE_DATA:
        install.at += 1
    if install.at == head.page_count:
        install.stage = INSTALL_WRITTEN
        patch_base(follow)
        return
    first = head.first_page + install.at
    while install.at < head.page_count and head.states[install.at] == SP_PAGE_DATA:
        page = install.body[1 + install.run]
        if pieces != 0 and <uint8_t *>install.iov[pieces - 1].iov_base + install.iov[pieces - 1].iov_len == page:
            install.iov[pieces - 1].iov_len += PAGE
        else:
            install.iov[pieces].iov_base = page
            install.iov[pieces].iov_len = PAGE
            pieces += 1
        install.run += 1
        install.at += 1
        n += 1
    install.op.tag = n * PAGE
    volume.reactor.io.write(
        &volume.reactor.io, &install.op, volume.ext_fd, install.iov, pieces, first * PAGE, False
    )


cdef void on_base_written(Op *op, int32_t res) noexcept nogil:
    cdef Install *install = <Install *>op.owner
    cdef const sp_base_head *head = <const sp_base_head *>install.body[0]
    if res != <int32_t>op.tag:
        installed(install, res if res < 0 else -EIO)
        return
    write_behind(install.follow, head.first_page, head.page_count)
    write_base(install)


cdef void installed(Install *install, int rc) noexcept nogil:
    """The frame is dealt with; the link's task goes on, also when the link is over."""
    cdef Follow *follow = install.follow
    cdef Volume *volume = follow.volume
    cdef uint32_t i
    if rc == 0:
        follow.base_bytes += install.pages * PAGE
    for i in range(install.pages):
        page_drop(&volume.reactor.pool, install.body[i])
    install.stage = INSTALL_FREE
    follow.installing -= 1
    volume.views -= 1
    if rc < 0:
        spoil(follow, rc)
    marks_go_on(follow)
    task_queue(volume.reactor, &volume.flush.task)
    task_queue(volume.reactor, &follow.task)


cdef void finish(Follow *follow, int rc) noexcept nogil:
    """What nothing else is parsed beside is over; the link's task goes on, also when the link is over."""
    cdef Volume *volume = follow.volume
    follow.base_busy = False
    volume.views -= 1
    if rc < 0:
        spoil(follow, rc)
    follow.base_over = rc == 0
    task_queue(volume.reactor, &volume.flush.task)
    task_queue(volume.reactor, &follow.task)


cdef void spoil(Follow *follow, int rc) noexcept nogil:
    """The session ends. When something here is damaged, what would be kept is no base to build on: the next one begins
    from nothing."""
    cdef sp_superblock *now = follow.volume.super.now
    if follow.base_rc == 0:
        follow.base_rc = rc
    if rc != -ENOMEM and rc != -ENOSPC and rc != -EDQUOT and not follow.over:
        now.base_lsn = 0
        now.base_cursor = 0
        now.base_from = 0


cdef void write_behind(Follow *follow, uint64_t first, uint64_t count) noexcept nogil:
    """The disk begins at once with what a mark will wait for. One call at a time, for all that was written since the last."""
    cdef Volume *volume = follow.volume
    if follow.behind_from == follow.behind_end:
        follow.behind_from = first
        follow.behind_end = first + count
    else:
        follow.behind_from = min(follow.behind_from, first)
        follow.behind_end = max(follow.behind_end, first + count)
    if follow.behind_op.busy or follow.over or follow.behind_end - follow.behind_from < BEHIND_PAGES:
        return
    first = follow.behind_from
    # Adjacent frames in the second pass may lie far apart: what is between them has nothing to be written.
    count = min(follow.behind_end - first, <uint64_t>BEHIND_PAGES_MAX)
    follow.behind_from = follow.behind_end
    volume.reactor.io.behind(&volume.reactor.io, &follow.behind_op, volume.ext_fd, first * PAGE, count * PAGE)


cdef void on_behind(Op *op, int32_t res) noexcept nogil:
    """Whatever came of it: an error is the next flush's to tell."""
    task_queue((<Follow *>op.owner).volume.reactor, &(<Follow *>op.owner).task)


# ---------------------------------------------------------------- sums

cdef void patch_base(Follow *follow) noexcept nogil:
    """One sums block at a time, for all frames that wait for it: none is changed in memory while it is being written."""
    cdef Volume *volume = follow.volume
    cdef Core *core = <Core *>volume.reactor.core
    cdef Install *oldest
    cdef Install *install
    cdef Frame *frame
    cdef uint64_t block
    cdef int i
    while not follow.patching:
        oldest = NULL
        for i in range(INSTALLS):
            install = &follow.installs[i]
            if install.stage == INSTALL_WRITTEN and (oldest == NULL or install.number < oldest.number):
                oldest = install
        if oldest == NULL:
            return
        follow.base_waiter.wake = on_base_frame
        follow.base_waiter.owner = follow
        follow.patching = True
        # A run lies within 64 aligned pages, so in one sums block: 960 is a multiple of 64.
        block = (<const sp_base_head *>oldest.body[0]).first_page // FRAME_PAGES
        frame = frame_get(core, volume, block * FRAME_PAGES, &follow.base_waiter)
        if frame == NULL:
            return
        for i in range(INSTALLS):
            install = &follow.installs[i]
            if install.stage == INSTALL_WRITTEN and (
                (<const sp_base_head *>install.body[0]).first_page // FRAME_PAGES == block
            ):
                install.stage = INSTALL_SUMS
                patch_frame(volume, frame, install)
        frame_seal(frame)
        follow.base_iov[0].iov_base = frame.data
        follow.base_iov[0].iov_len = PAGE
        follow.base_frame = frame
        follow.base_op.done = on_base_sums
        volume.reactor.io.write(
            &volume.reactor.io, &follow.base_op, volume.sums_fd, follow.base_iov, 1, block * PAGE, False
        )


cdef void patch_frame(Volume *volume, Frame *frame, const Install *install) noexcept nogil:
    cdef const sp_base_head *head = <const sp_base_head *>install.body[0]
    cdef uint64_t first = head.first_page
    cdef uint32_t i
    for i in range(head.page_count):
        if head.states[i] == SP_PAGE_DATA:
            frame_set(frame, first + i, SP_PAGE_DATA, head.sums[i])
        elif frame_zero(frame, first + i, first + i + 1):
            # What stood here before must not survive: it reads as zeros from now on, and its place may go.
            punch_hint(volume, first + i, 1, install.as_of)


cdef void on_base_frame(Waiter *waiter, int rc) noexcept nogil:
    """The block is there, or cannot be read: then the frame that wanted it is not installed."""
    cdef Follow *follow = <Follow *>waiter.owner
    cdef int i
    follow.patching = False
    if rc < 0:
        for i in range(INSTALLS):
            if follow.installs[i].stage == INSTALL_WRITTEN:
                installed(&follow.installs[i], rc)
        return
    patch_base(follow)


cdef void on_base_sums(Op *op, int32_t res) noexcept nogil:
    cdef Follow *follow = <Follow *>op.owner
    cdef int i
    frame_put(follow.base_frame)
    follow.patching = False
    for i in range(INSTALLS):
        if follow.installs[i].stage == INSTALL_SUMS:
            installed(&follow.installs[i], 0 if res == PAGE else (res if res < 0 else -EIO))
    patch_base(follow)


# ---------------------------------------------------------------- marks and the end

cdef int base_mark(Follow *follow) noexcept nogil:
    """Nothing older than this comes any more; and, when asked, what need not be sent again becomes durable."""
    cdef Volume *volume = follow.volume
    cdef sp_base_mark *mark = <sp_base_mark *>follow.body[0]
    cdef Mark *place = NULL
    cdef uint32_t check = mark.check
    cdef int i
    if volume.super.now.state != SP_STATE_REBUILDING or volume.log.head_lsn == 0:
        return -EPROTO
    for i in range(MARKS_OPEN):
        if follow.marks_open[i].stage == MARK_FREE:
            place = &follow.marks_open[i]
    if mark.flags & 1 and place == NULL:
        return -EAGAIN
    mark.check = 0
    if (
        check != sp_crc32c(0, mark, SP_BASE_MARK_SIZE)
        or mark.cursor < volume.super.now.base_cursor
        or mark.cursor < follow.mark_cursor
        or mark.cursor > volume.pages
        or mark.patched > mark.cursor
        or follow.frame.as_of_lsn < volume.base_as_of
        or follow.frame.as_of_lsn < volume.applied_lsn
    ):
        return -EBADMSG
    mark.check = check
    volume.base_as_of = follow.frame.as_of_lsn
    commit_hear(volume, follow.frame.commit_lsn)
    task_queue(volume.reactor, &volume.flush.task)
    if not mark.flags & 1:
        return 0
    follow.mark_cursor = mark.cursor
    place.follow = follow
    place.stage = MARK_WAITS
    place.after = follow.arrived
    place.cursor = mark.cursor
    place.patched = mark.patched
    place.rc = 0
    follow.marking += 1
    marks_go_on(follow)
    return 0


cdef void marks_go_on(Follow *follow) noexcept nogil:
    """The flushes of every mark whose frames are all written begin; those of several may be under way."""
    cdef Volume *volume = follow.volume
    cdef uint64_t oldest = FOREVER
    cdef Mark *mark
    cdef int i, file
    if follow.marking == 0:
        return
    for i in range(INSTALLS):
        if follow.installs[i].stage != INSTALL_FREE:
            oldest = min(oldest, follow.installs[i].number)
    for i in range(MARKS_OPEN):
        mark = &follow.marks_open[i]
        if mark.stage != MARK_WAITS or mark.after >= oldest:
            continue
        if follow.over or follow.base_rc < 0:
            # A frame before it may not have been written.
            mark_over(mark, 0)
            continue
        mark.stage = MARK_FLUSHED
        mark.syncs = 2
        for file in range(2):
            mark.flushed[file].wake = on_mark_synced
            mark.flushed[file].owner = mark
        sync_file(&volume.ext_sync, &mark.flushed[0])
        sync_file(&volume.sums_sync, &mark.flushed[1])


cdef void on_mark_synced(Waiter *waiter, int rc) noexcept nogil:
    cdef Mark *mark = <Mark *>waiter.owner
    cdef Follow *follow = mark.follow
    cdef Volume *volume = follow.volume
    mark.syncs -= 1
    if rc < 0:
        condemn(volume, 2 if waiter == &mark.flushed[0] else 3, rc)
        mark.rc = rc
    if mark.syncs > 0:
        return
    if mark.rc < 0 or follow.over or follow.base_rc < 0:
        # When the session is over, a preparation may be under way that has decided what is kept.
        mark_over(mark, mark.rc)
        return
    # A later mark may have come first; it says all that this one says.
    volume.super.now.base_cursor = max(volume.super.now.base_cursor, mark.cursor)
    volume.super.now.base_patched = max(volume.super.now.base_patched, mark.patched)
    reach_note(volume, follow.epoch, follow.start, follow.base_witness)
    mark.stage = MARK_SUPER
    mark.waiter.wake = on_mark_durable
    mark.waiter.owner = mark
    super_write_first(volume, &mark.waiter)


cdef void on_mark_durable(Waiter *waiter, int rc) noexcept nogil:
    cdef Mark *mark = <Mark *>waiter.owner
    if rc == 0:
        mark.follow.marks += 1
    mark_over(mark, rc)


cdef void mark_over(Mark *mark, int rc) noexcept nogil:
    """The link's task acknowledges it, and takes the next mark if that waits."""
    cdef Follow *follow = mark.follow
    mark.stage = MARK_FREE
    follow.marking -= 1
    if rc < 0:
        spoil(follow, rc)
    task_queue(follow.volume.reactor, &follow.task)


cdef int base_done(Follow *follow) noexcept nogil:
    """Make the base durable; the rebuild is complete when the log has reached the commit LSN of this moment."""
    cdef Volume *volume = follow.volume
    if volume.super.now.state != SP_STATE_REBUILDING or volume.log.head_lsn == 0:
        return -EPROTO
    # A mark that became durable later would put a cursor back into the superblock of a replica that is clean.
    if follow.marking > 0 or follow.installing > 0 or not flush_idle(volume):
        return -EAGAIN
    follow.base_busy = True
    volume.views += 1
    # What a frame may hold had committed when it was sent, and this is what has by now.
    follow.base_witness = max(follow.base_witness, follow.frame.as_of_lsn)
    follow.end_waiter.wake = on_extents_synced
    follow.end_waiter.owner = follow
    sync_file(&volume.ext_sync, &follow.end_waiter)
    return 0


cdef void on_extents_synced(Waiter *waiter, int rc) noexcept nogil:
    cdef Follow *follow = <Follow *>waiter.owner
    cdef Volume *volume = follow.volume
    if rc < 0:
        condemn(volume, 2, rc)
        finish(follow, rc)
        return
    waiter.wake = on_base_synced
    sync_file(&volume.sums_sync, waiter)


cdef void on_base_synced(Waiter *waiter, int rc) noexcept nogil:
    cdef Follow *follow = <Follow *>waiter.owner
    cdef Volume *volume = follow.volume
    if rc < 0:
        condemn(volume, 3, rc)
        finish(follow, rc)
        return
    if not follow.over:
        follow.base_synced = True
        volume.base_as_of = FOREVER
        commit_hear(volume, follow.frame.commit_lsn)
    finish(follow, 0)


cdef void base_look(Follow *follow) noexcept nogil:
    """All its pages are counted on from here, so it says how far any of them may reach. Not while the flusher is in a round
    that it began for a replica nobody counts on (extent/seals.pyx)."""
    cdef Volume *volume = follow.volume
    cdef uint64_t end = follow.base_witness
    if (
        not follow.base_synced or follow.rebuilt or follow.super_busy
        or volume.log.durable_lsn < end or not flush_idle(volume)
    ):
        return
    reach_note(volume, follow.epoch, follow.start, end)
    volume.super.now.state = SP_STATE_CLEAN
    volume.super.now.base_lsn = 0
    volume.super.now.base_cursor = 0
    volume.super.now.base_from = 0
    volume.super.now.base_patched = 0
    follow.super_busy = True
    follow.super_waiter.wake = on_clean
    follow.super_waiter.owner = follow
    super_write(volume, &follow.super_waiter)


cdef void on_clean(Waiter *waiter, int rc) noexcept nogil:
    cdef Follow *follow = <Follow *>waiter.owner
    follow.super_busy = False
    follow.rebuilt = rc == 0
    task_queue(follow.volume.reactor, &follow.task)
