"""Superblock updates: copy 0 durable, then copy 1, never two updates in flight.

Safety argument. Whatever instant the power goes, one copy is whole: copy 1 is not touched before copy 0 is durable, and
the next update does not touch copy 0 before copy 1 is durable. A promise is answered only after both copies hold it, so
losing either copy alone afterwards never brings an older promise back unnoticed: with one valid copy the replica opens
`suspect`. Whoever is told when the first copy is durable may conclude less: a crash, whenever, finds what was asked for
or something newer, since of two whole copies the newer counts, and copy 1 of this update is the only write until the
next begins; losing copy 0 as well may bring back what was before. Whatever somebody else is promised, or room in the
log that is given away, needs both.

No update begins once the replica is condemned, and whoever waits for one is told so, also when the update before it
ends well. So what a flush that failed may have made untrue, such as the cursor of a copy, is not written down any more.
"""

from libc.stdint cimport int32_t

from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_SUPERBLOCK_SIZE, sp_superblock
from sparrow._native.sys cimport EIO, memcpy, sp_crc32c
from sparrow._native.volume cimport Super, TermStart, Volume, Waiter
from sparrow._native.waiters cimport wake_all, waiter_add
from sparrow._native.wal.condemn cimport condemn


cdef void store_terms(Volume *volume) noexcept nogil:
    """The term table is kept whole: rows behind the tail cannot be derived from the log again."""
    cdef sp_superblock *now = volume.super.now
    cdef TermStart *rows = <TermStart *>&now.terms[0]
    cdef unsigned int i
    for i in range(volume.log.term_count):
        rows[i] = volume.log.terms[i]
    now.term_rows = volume.log.term_count


cdef void write_copy(Volume *volume, int copy) noexcept nogil:
    cdef Super *sb = &volume.super
    sb.stage = copy + 1
    sb.iov.iov_base = sb.image
    sb.iov.iov_len = SP_SUPERBLOCK_SIZE
    sb.op.done = on_written
    sb.op.owner = volume
    volume.reactor.io.write(&volume.reactor.io, &sb.op, sb.fd, &sb.iov, 1, copy * SP_SUPERBLOCK_SIZE, True)


cdef void begin(Volume *volume) noexcept nogil:
    cdef Super *sb = &volume.super
    cdef sp_superblock *image = <sp_superblock *>sb.image
    sb.again = False
    sb.writing = sb.waiters
    sb.first_writing = sb.first_waiters
    sb.waiters = NULL
    sb.first_waiters = NULL
    store_terms(volume)
    sb.now.sequence += 1
    memcpy(image, sb.now, SP_SUPERBLOCK_SIZE)
    image.check = 0
    image.check = sp_crc32c(0, image, SP_SUPERBLOCK_SIZE)
    sb.written_tail_lsn = image.tail_lsn
    sb.written_tail_offset = image.tail_offset
    sb.written_reach_lsn = image.reach_lsn
    sb.written_joint_from = image.joint_from
    sb.written_joint_to = image.joint_to
    write_copy(volume, 0)


cdef void on_written(Op *op, int32_t res) noexcept nogil:
    cdef Volume *volume = <Volume *>op.owner
    cdef Super *sb = &volume.super
    cdef int rc = 0 if res == SP_SUPERBLOCK_SIZE else (res if res < 0 else -EIO)
    if rc == 0 and sb.stage == 1:
        write_copy(volume, 1)
        wake_all(&sb.first_writing, 0)
        return
    sb.stage = 0
    if rc == 0:
        # Only now may the log overwrite what lies behind this tail.
        volume.log.free_floor = sb.written_tail_offset
        volume.log.free_lsn = sb.written_tail_lsn
        volume.reach_durable = sb.written_reach_lsn
        volume.joint.from_lsn = sb.written_joint_from
        volume.joint.to_lsn = sb.written_joint_to
    else:
        condemn(volume, 4, rc)
    # Of an update that ended well these were told already. Before the others: one of those may begin the next update.
    wake_all(&sb.first_writing, rc)
    wake_all(&sb.writing, rc)
    if sb.again or sb.waiters != NULL or sb.first_waiters != NULL:
        if volume.condemned:
            # Condemned while this update was under way: the next one, which they wait for, is never written.
            wake_all(&sb.waiters, rc if rc < 0 else -EIO)
            wake_all(&sb.first_waiters, rc if rc < 0 else -EIO)
        elif sb.stage == 0:
            begin(volume)


cdef void super_write(Volume *volume, Waiter *waiter) noexcept nogil:
    ask(volume, &volume.super.waiters, waiter)


cdef void super_write_first(Volume *volume, Waiter *waiter) noexcept nogil:
    ask(volume, &volume.super.first_waiters, waiter)


cdef void ask(Volume *volume, Waiter **waiters, Waiter *waiter) noexcept nogil:
    cdef Super *sb = &volume.super
    if volume.condemned:  # nothing of it is known any more
        if waiter != NULL:
            waiter.wake(waiter, -EIO)
        return
    if waiter != NULL:
        waiter_add(waiters, waiter)
    sb.again = True
    if sb.stage == 0:
        begin(volume)
