"""The base lane of a rebuild, follower's side: how a session begins, what it may rely on, and when the copy is
complete.

Frames become pages in base_install.pyx, and what need not be sent again becomes durable in base_marks.pyx.

Safety argument. One installed page: a base frame carries the commit LSN `as_of` it was read at, frames come in order,
and their as-of LSNs never go back. Nothing above the newest as-of LSN heard is applied meanwhile, so what was applied
to a page before its base copy came is part of the copy. Entries at or below the as-of LSN that are applied afterwards
may take the page back for a while, but the log is applied in order and up to that LSN, so it ends where the copy was,
and goes on from there. So once everything up to `as_of` is applied, an installed page holds exactly what the log says.

What a session counts on. Whoever plans it was told by this replica what is kept, and the session begins later: a
preparation that was given up may come in between and keep less. So BASE_START says what is counted on, and is refused
when that is more than the superblock says now: pages that were let go of would be taken for whole. A session whose log
goes on brings none; one is refused all the same, for a preparation that keeps less leaves no log.

One session: BASE_TABLE brings the table of reservations, if there is one, which is durable in its slot before anything
else of the session is taken (reservations.pyx). BASE_START says where the log begins (`pin`, the commit LSN then), the
lanes carry the rest. The replica becomes `clean` only when the base is durable and the log has reached the commit LSN
of the moment the base ended, which no as-of LSN is above.

What is kept when a session is interrupted. Four fields of the superblock speak of a replica that is being rebuilt:

    base_cursor    every page below it was installed, or needed no installing, and is durable
    base_lsn       the log of this replica holds everything above it, up to the log's end
    base_from      pages below the cursor hold every entry up to it: at most base_lsn, and less when entries between the
                   two were written while no session ran, and this replica's log could not be continued
    base_patched   pages below it miss nothing of what lies between the two: changed ones were copied again

They are written with a durable BASE_MARK, and with them up to which LSN pages may reach (wal/reach.pyx). Frames are
taken meanwhile, and the next marks too.

The next session, of whichever primary, finds one of two cases (control/prepare.pyx). The log goes on: the primary's log
still has the entry after the last one that both have. Nothing was missed then, for all that was committed while no
session ran is shipped, and the argument about one page holds across the interruption: its as-of LSN was a commit LSN,
so all entries up to it are in every primary's log, at the same LSNs, and are applied here. Or the log begins anew at
the pin of the new session: everything in (base_from, pin] may be missing below the cursor, and the second pass copies
what the primary's map says was touched since base_from. Base frames are as of `pin` or later and everything applied
here was committed by then, so the order of LSNs holds from one session to the next. Pages at or above the cursor are
copied whatever they hold.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.commit cimport commit_hear
from sparrow._native.extent.flusher cimport flush_idle
from sparrow._native.extent.sync cimport sync_file
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_BASE_START_SIZE, SP_BASE_TABLE_SIZE, SP_RESERVATION_BYTES, SP_STATE_CLEAN, SP_STATE_REBUILDING, SP_TABLE_PAGES,
    SP_TERM_ROWS_MAX, sp_base_start, sp_base_table, sp_superblock,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport task_queue
from sparrow._native.reservations cimport (
    table_discard, table_install, table_name, table_new, table_spare_at, table_tell, table_valid,
)
from sparrow._native.resize cimport resize_files, resize_tell
from sparrow._native.sys cimport EAGAIN, EBADMSG, EDQUOT, ENOMEM, ENOSPC, EPROTO, memcpy, sp_crc32c
from sparrow._native.volume cimport Follow, Table, TermStart, Volume, Waiter
from sparrow._native.wal.condemn cimport condemn
from sparrow._native.wal.damage cimport log_anchor
from sparrow._native.wal.reach cimport reach_note
from sparrow._native.wal.superblock cimport super_write

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
    if body.cursor > volume.super.now.base_cursor or (body.cursor > 0 and body.from_lsn > volume.super.now.base_from):
        # It counts on pages that are not kept here.
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


cdef int base_done(Follow *follow) noexcept nogil:
    """Make the base durable; the rebuild is complete when the log has reached the commit LSN of this moment."""
    cdef Volume *volume = follow.volume
    if volume.super.now.state != SP_STATE_REBUILDING or volume.log.head_lsn == 0:
        return -EPROTO
    # A mark that became durable later would put a cursor back into the superblock of a replica that is clean. Flushes of a
    # file take turns (extent/sync.pyx), so a mark's end no later than those below in any case; nothing here relies on it.
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


cdef void finish(Follow *follow, int rc) noexcept nogil:
    """What nothing else is parsed beside is over; the link's task goes on, also when the link is over."""
    cdef Volume *volume = follow.volume
    follow.base_busy = False
    volume.views -= 1
    if rc < 0:
        base_spoil(follow, rc)
    follow.base_over = rc == 0
    task_queue(volume.reactor, &volume.flush.task)
    task_queue(volume.reactor, &follow.task)


cdef void base_spoil(Follow *follow, int rc) noexcept nogil:
    """The session ends. When something here is damaged, what would be kept is no base to build on: the next one begins
    from nothing."""
    cdef sp_superblock *now = follow.volume.super.now
    if follow.base_rc == 0:
        follow.base_rc = rc
    if rc != -ENOMEM and rc != -ENOSPC and rc != -EDQUOT and not follow.over:
        now.base_lsn = 0
        now.base_cursor = 0
        now.base_from = 0
