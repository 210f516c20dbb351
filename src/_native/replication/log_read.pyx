"""The log is read for a peer that is behind, some batches ahead of what is being sent.

Reading, sending and the peer's own writing overlap: while one batch is in the socket the next ones come from the disk.
What was read is sent only when it is the batch at the link's cursor and is, byte for byte, what the index says was
written, so a read that comes late, or finds its place overwritten, sends nothing. Batches in memory are not read: they
are the newest, so reading ends where memory begins. Nor is more read while the peer has far more than it has made
durable: that would only fill its memory, and where both share a disk an I/O scheduler prefers reads to the writes that
are waited for. While nothing is being sent the batch at the cursor is read whatever the pool has left, or the link would
stand still; all others, and that one beside a send, only while the pool has more than frontends may take: catching up
never takes the pages that a client waits for, and a peer that reads nothing holds no more than its send.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Op
from sparrow._native.pool cimport PAGE, RUN_MIN, Pool, page_drop, page_spare, page_take, page_take_run, pages_rise
from sparrow._native.reactor cimport task_queue
from sparrow._native.volume cimport LOG_READS, LogRead, Rec, Ship, Volume
from sparrow._native.wal.damage cimport batch_damaged, batch_whole
from sparrow._native.wal.log cimport BLOCK, log_at, log_find, log_rec

cdef enum:
    UNACKED_BYTES = 8388608    # shipped and not durable there: nothing more is read

cdef uint64_t NOWHERE = <uint64_t>-1


cdef inline LogRead *read_of(Ship *ship, uint64_t sequence) noexcept nogil:
    return &ship.reads[sequence % LOG_READS]


cdef void drop(LogRead *read) noexcept nogil:
    cdef Pool *pool = &read.ship.volume.reactor.pool
    cdef uint32_t i
    for i in range(read.count):
        page_drop(pool, read.pages[i])
    read.count = 0
    read.ready = False


cdef bint far_ahead(const Ship *ship) noexcept nogil:
    """Whether the peer has much that is not durable there. In a rebuild that is not known here."""
    cdef Volume *volume = ship.volume
    cdef uint64_t at
    if ship.rebuild:
        return False
    at = log_find(volume, ship.peer.acked_lsn + 1)
    if at == NOWHERE or at >= ship.cursor:
        return False
    return (
        log_rec(volume, ship.cursor).offset + volume.log.bytes - log_rec(volume, at).offset
    ) % volume.log.bytes > UNACKED_BYTES


cdef void log_read_ahead(Ship *ship) noexcept nogil:
    cdef Volume *volume = ship.volume
    cdef Pool *pool = &volume.reactor.pool
    cdef uint64_t sequence
    cdef uint32_t pages
    cdef Rec *rec
    cdef LogRead *read
    if ship.cursor >= volume.log.next or log_rec(volume, ship.cursor).mem != NULL or far_ahead(ship):
        # Nothing is to be read, as ever in live shipping; or the next ack brings the task.
        return
    for sequence in range(ship.cursor, min(ship.cursor + LOG_READS, volume.log.next)):
        rec = log_rec(volume, sequence)
        # A damaged one is waited for: it is mended from another replica, or let go and this peer rebuilt.
        if rec.mem != NULL or rec.damaged:
            return
        read = read_of(ship, sequence)
        if read.count != 0:
            if read.sequence == sequence:
                continue
            if read.op.busy:
                return
            drop(read)
        pages = rec.bytes // BLOCK
        if sequence == ship.cursor and ship.iov_count == 0:
            if pool.free_count < pages:
                task_queue(volume.reactor, &ship.task)
                return
        elif not page_spare(pool, pages):
            return
        start(ship, read, rec, sequence)


cdef void start(Ship *ship, LogRead *read, const Rec *rec, uint64_t sequence) noexcept nogil:
    """Its pages hold nothing yet; those that touch in memory become one piece."""
    cdef Volume *volume = ship.volume
    cdef Pool *pool = &volume.reactor.pool
    cdef uint32_t pieces = 0
    cdef uint32_t i
    read.ship = ship
    read.sequence = sequence
    read.ready = False
    read.count = rec.bytes // BLOCK
    for i in range(read.count):
        read.pages[i] = page_take(pool) if read.count < RUN_MIN else page_take_run(pool)
    pages_rise(read.pages, read.count)
    for i in range(read.count):
        if pieces != 0 and read.pages[i] == read.pages[i - 1] + PAGE:
            read.iov[pieces - 1].iov_len += PAGE
            continue
        read.iov[pieces].iov_base = read.pages[i]
        read.iov[pieces].iov_len = PAGE
        pieces += 1
    read.op.done = on_read
    read.op.owner = read
    volume.reactor.io.read(
        &volume.reactor.io, &read.op, volume.log.fd, read.iov, pieces, log_at(volume, rec.offset)
    )


cdef void on_read(Op *op, int32_t res) noexcept nogil:
    """The link's task goes on with it, also when the link is over."""
    cdef LogRead *read = <LogRead *>op.owner
    cdef Ship *ship = read.ship
    cdef Volume *volume = ship.volume
    cdef Rec *rec
    task_queue(volume.reactor, &ship.task)
    if ship.peer == NULL or read.sequence < volume.log.first or read.sequence >= volume.log.next:
        # Nobody waits for it, or its place was given away meanwhile.
        drop(read)
        return
    rec = log_rec(volume, read.sequence)
    if res == <int32_t>(read.count * BLOCK) and batch_whole(volume, rec, read.pages):
        read.ready = True
        return
    drop(read)
    batch_damaged(volume, rec)


cdef LogRead *log_read_ready(Ship *ship) noexcept nogil:
    cdef LogRead *read = read_of(ship, ship.cursor)
    return read if read.ready and read.sequence == ship.cursor else NULL


cdef void log_read_taken(LogRead *read) noexcept nogil:
    read.count = 0
    read.ready = False


cdef bint log_read_busy(const Ship *ship) noexcept nogil:
    cdef uint32_t i
    for i in range(LOG_READS):
        if ship.reads[i].op.busy:
            return True
    return False


cdef void log_read_end(Ship *ship) noexcept nogil:
    cdef uint32_t i
    for i in range(LOG_READS):
        if ship.reads[i].count != 0:
            drop(&ship.reads[i])
