"""Where two logs part, and the end of one cut off.

Safety argument. A cut removes batch headers from the disk last to first, so a crash in the middle leaves a shorter
chain, never a hole; it is answered only when the zeros and the superblock are durable. Whether a cut may be made is
for the caller to know: never below what is applied or committed here.
"""

from libc.stdint cimport int32_t, uint64_t

from sparrow._native.control.command cimport Command, command_step
from sparrow._native.extent.dirty cimport dirty_cut_above
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport sp_superblock
from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport task_queue
from sparrow._native.reservations cimport table_cut
from sparrow._native.resize cimport resize_cut
from sparrow._native.sys cimport EIO
from sparrow._native.volume cimport Log, Rec, TermStart, Volume, Waiter
from sparrow._native.wal.condemn cimport condemn
from sparrow._native.wal.joint cimport joint_settle
from sparrow._native.wal.log cimport BLOCK, log_at, log_cut_index, log_rec
from sparrow._native.wal.superblock cimport super_write

cdef uint64_t NOWHERE = <uint64_t>-1


cdef uint64_t common_point(Volume *volume, const Row *rows, uint64_t count) noexcept nogil:
    cdef Log *log = &volume.log
    cdef uint64_t end = log.head_lsn
    cdef uint64_t k
    cdef int i = <int>log.term_count - 1
    if log.head_lsn == 0:
        return 0
    while i >= 0:
        for k in range(count):
            if rows[k].epoch == log.terms[i].epoch and rows[k].start == log.terms[i].start:
                return min(end, rows[k].last_lsn)
        end = log.terms[i].first_lsn - 1
        i -= 1
    # Nothing in common but the beginning, if this log still reaches back there, and the other's table does too: of a
    # table that let rows go nobody knows whether they were the ones that both had.
    return 0 if end == 0 and log.tail_lsn == 0 and (count == 0 or rows[0].first_lsn == 1) else NOWHERE


cdef bint reach_denied(const Volume *volume, uint64_t end, const Row *rows, uint64_t count) noexcept nogil:
    cdef const sp_superblock *now = volume.super.now
    cdef uint64_t k
    if end >= now.reach_lsn:
        return False
    for k in range(count):
        if rows[k].epoch == now.reach_epoch and rows[k].start == now.reach_start:
            return rows[k].last_lsn < now.reach_lsn
    return True


cdef bint shown_before(const Volume *volume, const Mail *mail) noexcept nogil:
    """Is what a join or a preparation shows of the primary's log older than what is here?

    A primary's log only grows within its term, and from nobody else come entries of that term: those that are here are
    in it, acknowledged maybe. A log that ends before them was shown before they came, by a request that was given up
    and is late. Whoever looks before the core is asked, as the node does too, may be told of an end that has moved on
    since. Nothing comes after this look: what is not late ends the link at once.
    """
    cdef const Log *log = &volume.log
    cdef const TermStart *last
    if log.term_count == 0:
        return False
    last = &log.terms[log.term_count - 1]
    return last.epoch == mail.a and last.start == mail.b and log.head_lsn > mail.c


cdef void cut_log(Command *command, uint64_t lsn, command_step step) noexcept nogil:
    command.at = command.volume.log.next
    command.end = lsn
    command.buffer = command.volume.reactor.pool.zero_page
    command.op.done = on_zeroed
    command.step = step
    # Nobody takes this log for quiet before the cut is durable: a fence answered meanwhile would tell of an end that
    # is about to go.
    command.volume.cutting = True
    zero_next(command)


cdef void zero_next(Command *command) noexcept nogil:
    """Wipe headers from the end of the log down to the common point, one durable write each."""
    cdef Volume *volume = command.volume
    cdef Rec *rec
    if command.at > volume.log.first:
        rec = log_rec(volume, command.at - 1)
        if rec.last_lsn > command.end:
            command.at -= 1
            command.iov.iov_base = command.buffer
            command.iov.iov_len = BLOCK
            volume.reactor.io.write(
                &volume.reactor.io, &command.op, volume.log.fd, &command.iov, 1, log_at(volume, rec.offset), True
            )
            return
    if volume.log.head_lsn > command.end:
        dirty_cut_above(command.core, volume, command.end)
        resize_cut(volume, command.end)
        table_cut(volume, command.end)
        log_cut_index(volume, command.end)
    # Under a line from the master and a primary that has adopted, this replica is what its log says.
    volume.suspect = False
    joint_settle(volume)
    command.waiter.wake = on_cut
    super_write(volume, &command.waiter)


cdef void on_zeroed(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    if res != BLOCK:
        # What this log holds on disk is not known any more.
        condemn(command.volume, 1, res if res < 0 else -EIO)
        on_cut(&command.waiter, res if res < 0 else -EIO)
        return
    zero_next(command)


cdef void on_cut(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    volume.cutting = False
    task_queue(volume.reactor, &volume.quiet_task)
    command.step(waiter, rc)
