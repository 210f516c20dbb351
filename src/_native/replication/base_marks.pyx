"""The base lane of a rebuild, follower's side: durable marks, which say what need not be sent again.

What the fields of the superblock that they write mean, and what the next session makes of them, stands in
base_receive.pyx.

What a mark claims. Every frame that came before it is written, pages and sums, and the flushes of both files that it
waits for (extent/sync.pyx) began after that; so its cursor is true when they have ended, whatever is written beside
them. That lies behind the cursor, or is the flusher's and still in the log: after a crash pages there may not be what
the sums say, and are copied again or applied again before anybody reads them. In the second pass the same holds of
`base_patched` and of the changed granules at or above it. Of two the later one says all that the earlier says, so the
superblock takes the larger; marks that wait for a flush at one time share the next. An error of a flush or of a frame
before it voids a mark and ends the session. So does one that has condemned the replica meanwhile, for the superblock of
a condemned replica takes nothing more. The end of the copy waits for every frame and every mark, for a replica that is
clean has no cursor.

When a mark is acknowledged. When the first superblock copy says what it claims. The primary concludes from it only how
much more it may send, and a session that begins later finds what that copy says, or something newer
(wal/superblock.pyx). Would that copy be lost too, the other one says less, and more is copied again. The second copy is
part of the same update, so what comes behind it, as that the replica is clean, is written when both say what the mark
said.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.commit cimport commit_hear
from sparrow._native.extent.sync cimport sync_file
from sparrow._native.layout cimport SP_BASE_MARK_SIZE, SP_STATE_REBUILDING, sp_base_mark
from sparrow._native.reactor cimport task_queue
from sparrow._native.replication.base_install cimport INSTALLS
from sparrow._native.replication.base_receive cimport base_spoil
from sparrow._native.sys cimport EAGAIN, EBADMSG, EPROTO, sp_crc32c
from sparrow._native.volume cimport (
    INSTALL_FREE, MARK_FLUSHED, MARK_FREE, MARK_SUPER, MARK_WAITS, Follow, Mark, Volume, Waiter,
)
from sparrow._native.wal.condemn cimport condemn
from sparrow._native.wal.reach cimport reach_note
from sparrow._native.wal.superblock cimport super_write_first

cdef enum:
    MARKS_OPEN = 4             # durable marks under way; marks_open of Follow


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
    cdef uint64_t oldest = follow.arrived + 1
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
        base_spoil(follow, rc)
    task_queue(follow.volume.reactor, &follow.task)
