"""The log is read for a peer that is behind, some reads ahead of what is being sent, neighbouring batches in one.

Reading, sending and the peer's own writing overlap: while some batches are in the socket the next ones come from the
disk. They lie side by side in the ring as a rule, so a read takes as many as fit its pages: with a read for each of
many small ones the disk's answers would be what is waited for. Batches in memory are not read: they are the newest, so
reading ends where memory begins. Nor is more read while the peer has far more than it has made durable: that would only
fill its memory, and where both share a disk an I/O scheduler prefers reads to the writes that are waited for. While
nothing is being sent the batch at the cursor is read whatever the pool has left, or the link would stand still; all
others, and that one beside a send, only while the pool has more than frontends may take: catching up never takes the
pages that a client waits for, and a peer that reads nothing holds no more than its send.

Safety argument. What is sent is the batch at the link's cursor and, byte for byte, what the index says was written. A
read is of the batches [first, end) as the index had them when it began, one behind the other in its pages. When it
ends, and all of them are still retained, each is held against its own record, header and payload; the first that is not
whole ends what the read brought, so nothing behind it goes out as its neighbour. Of what is whole a batch is taken only
when it is the one at the cursor, and taking it moves both by one. A read that comes late, or finds its place
overwritten, sends nothing. A read of several that fails says nothing of any single one: they are read one by one then,
and what cannot be read is damaged.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Op
from sparrow._native.pool cimport PAGE, RUN_MIN, Pool, page_drop, page_spare, page_take, page_take_run, pages_rise
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport sp_assert
from sparrow._native.volume cimport LOG_READS, LogRead, Rec, Ship, Volume
from sparrow._native.wal.damage cimport batch_damaged, batch_whole
from sparrow._native.wal.log cimport BLOCK, log_at, log_find, log_rec

cdef enum:
    READ_PAGES = 64            # of several batches in one read; a larger one is read by itself
    UNACKED_BYTES = 8388608    # shipped and not durable there: nothing more is read

cdef uint64_t NOWHERE = <uint64_t>-1


cdef LogRead *read_with(Ship *ship, uint64_t sequence) noexcept nogil:
    """Who has this batch, or will; NULL: nobody."""
    cdef LogRead *read
    cdef uint32_t i
    for i in range(LOG_READS):
        read = &ship.reads[i]
        if read.count != 0 and read.first <= sequence < read.end:
            return read
    return NULL


cdef LogRead *read_free(Ship *ship) noexcept nogil:
    """NULL: none is."""
    cdef uint32_t i
    for i in range(LOG_READS):
        if ship.reads[i].count == 0:
            return &ship.reads[i]
    return NULL


cdef void drop(LogRead *read) noexcept nogil:
    cdef Pool *pool = &read.ship.volume.reactor.pool
    cdef uint32_t i
    for i in range(read.at, read.count):
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
    cdef uint64_t sequence = ship.cursor
    cdef LogRead *read
    if sequence >= volume.log.next or log_rec(volume, sequence).mem != NULL or far_ahead(ship):
        # Nothing is to be read, as ever in live shipping; or the next ack brings the task.
        return
    while sequence < volume.log.next:
        read = read_with(ship, sequence)
        if read == NULL:
            read = start(ship, sequence)
        if read == NULL:
            return
        sequence = read.end


cdef inline bint to_be_read(const Rec *rec) noexcept nogil:
    """A damaged one is waited for: it is mended from another replica, or let go and this peer rebuilt."""
    return rec.mem == NULL and not rec.damaged


cdef LogRead *start(Ship *ship, uint64_t sequence) noexcept nogil:
    """Read this batch, and those behind it that lie there and fit; NULL: not now."""
    cdef Volume *volume = ship.volume
    cdef Pool *pool = &volume.reactor.pool
    cdef const Rec *first = log_rec(volume, sequence)
    cdef const Rec *rec
    cdef uint32_t pages = first.bytes // BLOCK
    cdef LogRead *read = read_free(ship)
    if read == NULL or not to_be_read(first):
        return NULL
    if sequence == ship.cursor and ship.iov_count == 0:
        if pool.free_count < pages:
            task_queue(volume.reactor, &ship.task)
            return NULL
    elif not page_spare(pool, pages):
        return NULL
    read.ship = ship
    read.first = sequence
    read.end = sequence + 1
    while sequence >= ship.alone_to and read.end < volume.log.next:
        rec = log_rec(volume, read.end)
        if (
            not to_be_read(rec) or rec.offset != first.offset + pages * BLOCK
            or pages + rec.bytes // BLOCK > READ_PAGES or not page_spare(pool, pages + rec.bytes // BLOCK)
            or read_with(ship, read.end) != NULL
        ):
            break
        pages += rec.bytes // BLOCK
        read.end += 1
    submit(read, pages, first.offset)
    return read


cdef void submit(LogRead *read, uint32_t pages, uint64_t offset) noexcept nogil:
    """Its pages hold nothing yet; those that touch in memory become one piece."""
    cdef Volume *volume = read.ship.volume
    cdef Pool *pool = &volume.reactor.pool
    cdef uint32_t pieces = 0
    cdef uint32_t i
    read.ready = False
    read.at = 0
    read.count = pages
    for i in range(pages):
        read.pages[i] = page_take(pool) if pages < RUN_MIN else page_take_run(pool)
    pages_rise(read.pages, pages)
    for i in range(pages):
        if pieces != 0 and read.pages[i] == read.pages[i - 1] + PAGE:
            read.iov[pieces - 1].iov_len += PAGE
            continue
        read.iov[pieces].iov_base = read.pages[i]
        read.iov[pieces].iov_len = PAGE
        pieces += 1
    read.op.done = on_read
    read.op.owner = read
    volume.reactor.io.read(&volume.reactor.io, &read.op, volume.log.fd, read.iov, pieces, log_at(volume, offset))


cdef void on_read(Op *op, int32_t res) noexcept nogil:
    """The link's task goes on with it, also when the link is over."""
    cdef LogRead *read = <LogRead *>op.owner
    cdef Ship *ship = read.ship
    cdef Volume *volume = ship.volume
    task_queue(volume.reactor, &ship.task)
    if ship.peer == NULL or read.first < volume.log.first or read.end > volume.log.next:
        # Nobody waits for it, or its place was given away meanwhile.
        drop(read)
    elif res != <int32_t>(read.count * BLOCK) and read.end - read.first > 1:
        ship.alone_to = max(ship.alone_to, read.end)
        drop(read)
    else:
        keep_whole(read, res == <int32_t>(read.count * BLOCK))


cdef void keep_whole(LogRead *read, bint came) noexcept nogil:
    """Of what came, the batches before the first that is not what was written."""
    cdef Volume *volume = read.ship.volume
    cdef Pool *pool = &volume.reactor.pool
    cdef uint64_t sequence = read.first
    cdef uint32_t pages = 0
    cdef uint32_t i
    cdef Rec *rec
    while sequence < read.end:
        rec = log_rec(volume, sequence)
        if not came or not batch_whole(volume, rec, &read.pages[pages]):
            batch_damaged(volume, rec)
            break
        pages += rec.bytes // BLOCK
        sequence += 1
    for i in range(pages, read.count):
        page_drop(pool, read.pages[i])
    read.end = sequence
    read.count = pages
    read.ready = pages > 0


cdef LogRead *log_read_ready(Ship *ship) noexcept nogil:
    cdef LogRead *read = read_with(ship, ship.cursor)
    if read == NULL or not read.ready:
        return NULL
    sp_assert(read.first == ship.cursor, b"batches that were read are sent in their order")
    return read


cdef void log_read_taken(LogRead *read) noexcept nogil:
    read.at += log_rec(read.ship.volume, read.first).bytes // BLOCK
    read.first += 1
    if read.at == read.count:
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
