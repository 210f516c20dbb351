"""Batches at rest: checking, rewriting from memory or from a peer's copy, letting go of what nobody has.

Safety argument. Only the identical bytes are written in place: the header's checksum is the one in the index, and the
payload matches the sums in that header. While it is being written the write counts as one of the log's, so nobody takes
the log for quiet: no cut wipes headers meanwhile, and none that was cut comes back. The flusher stands still too, so
the space is not given to another batch. A cut may come while the disk is read or a round is waited for, and another
batch may then begin at the same LSN, of another size: after each wait the batch is looked for by its checksum as well.
What nobody has is let go only when it is applied: this replica needs it no more, and a peer that does is rebuilt, as if
the batch had been recycled.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.control.command cimport Command, command_done, command_new
from sparrow._native.extent.flusher cimport flush_idle, flush_urge
from sparrow._native.io.ops cimport Op
from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport Timer, now_boot, task_queue, timer_set
from sparrow._native.sys cimport EBADMSG, EIO, ENOMEM, free, malloc, memcpy
from sparrow._native.volume cimport PEERS_MAX, Core, MemBatch, Rec, Volume
from sparrow._native.wal.condemn cimport condemn
from sparrow._native.wal.damage cimport batch_damaged, bytes_whole
from sparrow._native.wal.log cimport BLOCK, log_at, log_find, log_rec

cdef uint64_t NOWHERE = <uint64_t>-1
cdef uint64_t RETRY_NS = 1000000

cdef enum Found:
    WHOLE = 1
    REWRITTEN = 2
    DAMAGED = 3


cdef Command *begin(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    """While it is under way no round of the flusher begins, so nothing retained is let go."""
    cdef Command *command = command_new(core, volume, mail)
    if command != NULL:
        volume.views += 1
    return command


cdef void finish(Command *command, int rc, uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    cdef Volume *volume = command.volume
    free(command.buffer)
    command.buffer = NULL
    volume.views -= 1
    task_queue(volume.reactor, &volume.flush.task)
    if volume.follow != NULL:
        task_queue(volume.reactor, &volume.follow.task)
    command_done(command, rc, a, b, c, NULL, 0)


cdef uint8_t *aligned(Command *command) noexcept nogil:
    return <uint8_t *>((<uint64_t>command.buffer + BLOCK - 1) & ~<uint64_t>(BLOCK - 1))


cdef void is_of(Command *command, const Rec *rec) noexcept nogil:
    command.at = rec.first_lsn
    command.number = rec.check


cdef Rec *retained(Command *command) noexcept nogil:
    """The batch of this command, if it is still in the log."""
    cdef uint64_t at = log_find(command.volume, command.at)
    cdef Rec *rec
    if at == NOWHERE:
        return NULL
    rec = log_rec(command.volume, at)
    return rec if rec.durable and rec.check == command.number else NULL


# ---------------------------------------------------------------- checking

cdef void do_check_batch(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = begin(core, volume, mail)
    cdef uint64_t low = volume.log.first
    cdef uint64_t high = volume.log.next
    cdef uint64_t middle
    cdef Rec *rec
    if command == NULL:
        return
    while low < high:
        middle = (low + high) // 2
        if log_rec(volume, middle).last_lsn < mail.a:
            low = middle + 1
        else:
            high = middle
    if low == volume.log.next or not log_rec(volume, low).durable:
        finish(command, 0, 0, 0, 0)
        return
    rec = log_rec(volume, low)
    is_of(command, rec)
    command.end = rec.last_lsn + 1
    command.buffer = <uint8_t *>malloc(rec.bytes + BLOCK)
    if command.buffer == NULL:
        finish(command, -ENOMEM, 0, 0, 0)
        return
    command.op.done = on_read
    command.iov.iov_base = aligned(command)
    command.iov.iov_len = rec.bytes
    volume.reactor.io.read(&volume.reactor.io, &command.op, volume.log.fd, &command.iov, 1, log_at(volume, rec.offset))


cdef void on_read(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    cdef Volume *volume = command.volume
    cdef Rec *rec = retained(command)
    cdef MemBatch *mem
    cdef uint32_t i
    if rec == NULL or (
        res == <int32_t>command.iov.iov_len and bytes_whole(volume, rec, aligned(command))
    ):
        finish(command, 0, command.end, WHOLE, command.iov.iov_len)
        return
    mem = rec.mem
    if mem == NULL:
        batch_damaged(volume, rec)
        finish(command, 0, command.end, DAMAGED, command.iov.iov_len)
        return
    # It is still here as it was written.
    memcpy(aligned(command), mem.header, BLOCK)
    for i in range(mem.page_count):
        memcpy(aligned(command) + <uint64_t>(1 + i) * BLOCK, mem.pages[i], BLOCK)
    command.stage = REWRITTEN
    put_back(command)


# ---------------------------------------------------------------- mending

cdef void do_mend_batch(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = begin(core, volume, mail)
    cdef uint64_t at = log_find(volume, mail.a)
    cdef Rec *rec
    if command == NULL:
        return
    if at == NOWHERE or not log_rec(volume, at).durable:
        finish(command, 0, 0, 0, 0)
        return
    rec = log_rec(volume, at)
    is_of(command, rec)
    if mail.length == 0:
        if rec.damaged:
            # Else it was put back meanwhile, or is another one, after a cut.
            volume.log.let_go_lsn = max(volume.log.let_go_lsn, rec.last_lsn)
            flush_urge(volume)
        finish(command, 0, 2, 0, 0)
        return
    if mail.length < rec.bytes:
        finish(command, -EBADMSG, 0, 0, 0)
        return
    command.buffer = <uint8_t *>malloc(rec.bytes + BLOCK)
    if command.buffer == NULL:
        finish(command, -ENOMEM, 0, 0, 0)
        return
    memcpy(aligned(command), mail.data, rec.bytes)
    if not bytes_whole(volume, rec, aligned(command)):
        finish(command, -EBADMSG, 0, 0, 0)
        return
    command.iov.iov_base = aligned(command)
    command.iov.iov_len = rec.bytes
    put_back(command)


cdef void put_back(Command *command) noexcept nogil:
    cdef Volume *volume = command.volume
    cdef Rec *rec = retained(command)
    if rec == NULL:
        finish(command, 0, command.end, WHOLE if command.stage == REWRITTEN else 0, 0)
        return
    if volume.condemned:
        finish(command, -EIO, 0, 0, 0)
        return
    if volume.cutting or not flush_idle(volume):
        # A cut may be wiping it, a round under way may be letting it go.
        command.timer.fire = on_retry
        timer_set(command.core.reactor, &command.timer, now_boot(command.core.reactor) + RETRY_NS)
        return
    volume.log.writes += 1
    command.op.done = on_put_back
    volume.reactor.io.write(
        &volume.reactor.io, &command.op, volume.log.fd, &command.iov, 1, log_at(volume, rec.offset), True
    )


cdef void on_retry(Timer *timer) noexcept nogil:
    put_back(<Command *>timer.owner)


cdef void on_put_back(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    cdef Volume *volume = command.volume
    cdef Rec *rec = retained(command)
    cdef int i
    volume.log.writes -= 1
    if volume.quiet_waiters != NULL:
        task_queue(volume.reactor, &volume.quiet_task)
    task_queue(volume.reactor, &volume.log_task)
    if res != <int32_t>command.iov.iov_len:
        condemn(volume, 1, res if res < 0 else -EIO)
        finish(command, res if res < 0 else -EIO, 0, 0, 0)
        return
    if rec != NULL:
        rec.damaged = False
    for i in range(PEERS_MAX):
        if volume.peers[i] != NULL and volume.peers[i].ship != NULL:
            task_queue(volume.reactor, &volume.peers[i].ship.task)
    if command.stage == REWRITTEN:
        finish(command, 0, command.end, REWRITTEN, command.iov.iov_len)
    else:
        finish(command, 0, 1, 0, 0)
