"""Shipping: one cursor per peer walks the log, from memory at the head, from the ring behind it.

Catch-up and live shipping are the same thing at different cursors, so there is no switch between them at which an LSN
could be missed or sent twice. One send is outstanding per socket; what was closed meanwhile joins the next gather. A
rebuild adds a base lane on the same socket: granules read through the committed view, each with the commit LSN it was
read at, between the batches. While the base lane runs the live lane stays within a window above the as-of LSN of the
last base frame, for the follower applies nothing above it and must not run out of memory or log: the next base frame
comes behind the batches, so a follower without room for them would never see it.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.block cimport block_submit
from sparrow._native.crc cimport crc_page
from sparrow._native.events cimport EVENT_PEER_LOST, EVENT_PEER_REBUILT, event_up
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_ACK_MAGIC, SP_BASE_HEAD_SIZE, SP_BASE_PAGES_MAX, SP_BASE_START_SIZE, SP_BATCH_BYTES_MAX, SP_FRAME_BASE,
    SP_FRAME_BASE_DONE, SP_FRAME_BASE_START, SP_FRAME_BATCH, SP_FRAME_COMMIT, SP_PAGE_DATA, SP_SHIP_ACK_SIZE, SP_SHIP_FRAME_SIZE,
    SP_SHIP_MAGIC, sp_base_head, sp_base_start, sp_ship_ack, sp_ship_frame, sp_wal_batch,
)
from sparrow._native.pool cimport PAGE, page_drop, page_hold, page_take
from sparrow._native.reactor cimport Task, now_boot, task_queue
from sparrow._native.sys cimport (
    EBUSY, EIO, ENOENT, ENOMEM, EPIPE, IPPROTO_TCP, TCP_NODELAY, calloc, free, iovec, memcpy, memmove, memset,
    setsockopt, sp_assert, sp_crc32c,
)
from sparrow._native.volume cimport (
    NONE, REQ_READ, SEND_IOV, BlockReq, Core, Log, MemBatch, Peer, Rec, Ship, TermStart, Volume, PEERS_MAX,
)
from sparrow._native.waiters cimport wake_all, wake_reached
from sparrow._native.wal.log cimport BLOCK, batch_drop, batch_hold, head_valid, log_check_at, log_find, log_rec

cdef enum:
    SEND_BYTES = 1048576
    SEND_HEADS = 60
    LIVE_WINDOW_PAGES = 4096      # above the as-of LSN of the last base frame: half of what a follower holds unapplied

cdef uint64_t NOWHERE = <uint64_t>-1


cdef Peer *peer_of(Volume *volume, uint32_t slot) noexcept nogil:
    """The peer of a slot, made on first use; NULL without memory or for a slot that cannot be."""
    cdef Peer *peer
    if slot >= PEERS_MAX:
        return NULL
    peer = volume.peers[slot]
    if peer == NULL:
        peer = <Peer *>calloc(1, sizeof(Peer))
        if peer == NULL:
            return NULL
        peer.volume = volume
        peer.slot = slot
        peer.node_key = NONE
        peer.headroom = NOWHERE
        volume.peers[slot] = peer
    return peer


cdef int ship_start(
    Volume *volume, uint32_t slot, uint32_t node_key, int fd, uint64_t joined_lsn, bint rebuild
) noexcept nogil:
    cdef Peer *peer = peer_of(volume, slot)
    cdef Ship *ship
    cdef uint64_t cursor
    cdef uint64_t after = volume.commit_lsn if rebuild else joined_lsn
    cdef uint32_t check
    cdef int one = 1
    if peer == NULL:
        return -ENOMEM
    if after == volume.log.head_lsn:
        cursor = volume.log.next
    else:
        cursor = log_find(volume, after + 1)
        if cursor == NOWHERE:
            return -ENOENT
    if not log_check_at(volume, after, &check):
        return -ENOENT
    if peer.ship != NULL:
        ship_drop(peer, LOST_DROPPED)
    ship = <Ship *>calloc(1, sizeof(Ship))
    if ship == NULL:
        return -ENOMEM
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(int))
    ship.peer = peer
    ship.volume = volume
    ship.fd = fd
    ship.epoch = volume.term_epoch
    ship.start = volume.term_start
    ship.cursor = cursor
    ship.rebuild = rebuild
    ship.base_start = after
    ship.task.run = run_ship
    ship.task.owner = ship
    ship.send_op.done = on_sent
    ship.send_op.owner = ship
    ship.recv_op.done = on_ack
    ship.recv_op.owner = ship
    ship.read_op.done = on_log_read
    ship.read_op.owner = ship
    volume.links += 1
    peer.ship = ship
    peer.node_key = node_key
    peer.acked_lsn = 0 if rebuild else joined_lsn
    peer.heard_ns = now_boot(volume.reactor)
    recv_acks(ship)
    task_queue(volume.reactor, &ship.task)
    task_queue(volume.reactor, &volume.commit_task)
    return 0


# ---------------------------------------------------------------- end of a link

cdef void ship_drop(Peer *peer, int cause) noexcept nogil:
    """End the link; what the peer acknowledged in this term stays true."""
    cdef Ship *ship = peer.ship
    cdef Volume *volume = peer.volume
    if ship == NULL:
        return
    peer.ship = NULL
    ship.peer = NULL
    if cause != LOST_DROPPED:
        event_up(volume, EVENT_PEER_LOST, peer.slot, ship.epoch, ship.start, cause)
    wake_all(&peer.waiters, -EPIPE)
    volume.reactor.io.shutdown(&volume.reactor.io, ship.fd)
    volume.reactor.io.cancel(&volume.reactor.io, &ship.recv_op)
    volume.reactor.io.cancel(&volume.reactor.io, &ship.send_op)
    reap(ship)


cdef void reap(Ship *ship) noexcept nogil:
    """Free a link that is over once the kernel holds nothing of it."""
    cdef Core *core = <Core *>ship.volume.reactor.core
    cdef uint32_t i
    if ship.peer != NULL or ship.send_op.busy or ship.recv_op.busy or ship.read_op.busy or ship.base_reading:
        return
    if ship.task.queued:
        return
    release_sent(ship)
    for i in range(ship.read_count):
        page_drop(&core.reactor.pool, ship.read_pages[i])
    if ship.base_ready:
        release_granule(ship)
    ship.volume.reactor.io.close(&ship.volume.reactor.io, ship.fd)
    ship.volume.links -= 1
    free(ship)


cdef void ship_drop_all(Volume *volume) noexcept nogil:
    cdef int i
    for i in range(PEERS_MAX):
        if volume.peers[i] != NULL:
            ship_drop(volume.peers[i], LOST_DROPPED)
            volume.peers[i].needed = False
            volume.peers[i].acked_lsn = 0
            volume.peers[i].right_boot = 0
            volume.peers[i].right_raw = 0


cdef void peers_free(Volume *volume) noexcept nogil:
    cdef int i
    for i in range(PEERS_MAX):
        free(volume.peers[i])
        volume.peers[i] = NULL


# ---------------------------------------------------------------- composing one send

cdef inline void add_iov(Ship *ship, void *data, uint32_t size) noexcept nogil:
    cdef iovec *last
    if ship.iov_count > 0:
        last = &ship.iov[ship.iov_count - 1]
        if <uint8_t *>last.iov_base + last.iov_len == <uint8_t *>data:
            last.iov_len += size
            return
    sp_assert(ship.iov_count < SEND_IOV, b"a send fits its vector")
    ship.iov[ship.iov_count].iov_base = data
    ship.iov[ship.iov_count].iov_len = size
    ship.iov_count += 1


cdef void add_head(Ship *ship, uint32_t kind, uint32_t body_bytes, uint64_t as_of) noexcept nogil:
    cdef sp_ship_frame *head = &ship.heads[ship.head_count]
    ship.head_count += 1
    head.magic = <uint32_t>SP_SHIP_MAGIC
    head.check = 0
    head.kind = kind
    head.body_bytes = body_bytes
    head.term_epoch = ship.epoch
    head.term_start = ship.start
    head.commit_lsn = ship.volume.commit_lsn
    head.as_of_lsn = as_of
    head.check = sp_crc32c(0, head, SP_SHIP_FRAME_SIZE)
    ship.sent_commit = ship.volume.commit_lsn
    add_iov(ship, head, SP_SHIP_FRAME_SIZE)


cdef inline void add_page(Ship *ship, uint8_t *page) noexcept nogil:
    """The page's reference goes to this send."""
    ship.pages[ship.page_count] = page
    ship.page_count += 1
    add_iov(ship, page, PAGE)


cdef uint32_t add_batch(Ship *ship, MemBatch *batch) noexcept nogil:
    cdef uint32_t i
    add_head(ship, SP_FRAME_BATCH, (1 + batch.page_count) * BLOCK, 0)
    add_iov(ship, batch.header, BLOCK)
    for i in range(batch.page_count):
        add_iov(ship, batch.pages[i], PAGE)
    batch_hold(batch)
    ship.held[ship.held_count] = batch
    ship.held_count += 1
    return (1 + batch.page_count) * BLOCK


cdef bint add_base_start(Ship *ship) noexcept nogil:
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


cdef uint32_t live_window(Volume *volume) noexcept nogil:
    """Pages. A follower has two fifths of its ring free for what it cannot apply; one batch may go beyond, three are
    the margin of its log, and one is wasted at the end of the ring."""
    cdef uint64_t blocks = volume.log.bytes // BLOCK * 2 // 5
    cdef uint64_t margin = 5 * (SP_BATCH_BYTES_MAX // BLOCK)
    return <uint32_t>min(<uint64_t>LIVE_WINDOW_PAGES, blocks - margin if blocks > margin else 1)


cdef uint32_t live_above(Ship *ship, uint64_t lsn) noexcept nogil:
    """Pages shipped that the follower cannot apply while its base is as of this LSN."""
    cdef Log *log = &ship.volume.log
    cdef uint64_t at = ship.cursor
    cdef uint32_t pages = 0
    while at > log.first and log_rec(ship.volume, at - 1).last_lsn > lsn:
        at -= 1
        pages += log_rec(ship.volume, at).bytes // BLOCK
    return pages


cdef uint32_t add_granule(Ship *ship) noexcept nogil:
    """The granule that was read, as a BASE frame; 0 when there is no page for its head now."""
    cdef Volume *volume = ship.volume
    cdef uint8_t *zero = volume.reactor.pool.zero_page
    cdef uint8_t *page = page_take(&volume.reactor.pool)
    cdef sp_base_head *head = <sp_base_head *>page
    cdef uint32_t i
    if page == NULL:
        return 0
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
    ship.live_pages = live_above(ship, ship.base_as_of)
    ship.base_page += ship.base_req.page_count
    return (1 + head.data_count) * PAGE


cdef void run_ship(Task *task) noexcept nogil:
    cdef Ship *ship = <Ship *>task.owner
    cdef Volume *volume = ship.volume
    cdef Rec *rec
    cdef uint64_t bytes_now = 0
    cdef uint32_t i
    if ship.peer == NULL:
        reap(ship)
        return
    if ship.send_op.busy:
        return
    if ship.cursor < volume.log.first:
        ship_drop(ship.peer, LOST_RECYCLED)
        return
    if ship.rebuild and not ship.base_started and not add_base_start(ship):
        task_queue(volume.reactor, task)
        return
    while ship.cursor < volume.log.next and ship.head_count < SEND_HEADS and bytes_now < SEND_BYTES:
        if ship.rebuild and not ship.base_done and ship.live_pages > live_window(volume):
            break
        rec = log_rec(volume, ship.cursor)
        # A large batch may not fit the vector any more; it goes first next time.
        if ship.iov_count + 2 + rec.bytes // BLOCK > SEND_IOV:
            break
        if rec.mem != NULL:
            bytes_now += add_batch(ship, rec.mem)
        elif ship.read_ready:
            add_head(ship, SP_FRAME_BATCH, rec.bytes, 0)
            for i in range(ship.read_count):
                add_page(ship, ship.read_pages[i])
            ship.read_count = 0
            ship.read_ready = False
            bytes_now += rec.bytes
        else:
            read_log(ship, rec)
            break
        ship.live_pages += rec.bytes // BLOCK
        ship.cursor += 1
    if ship.rebuild and not ship.base_done and ship.head_count < SEND_HEADS:
        if ship.base_ready and ship.iov_count + 2 + SP_BASE_PAGES_MAX < SEND_IOV:
            bytes_now += add_granule(ship)
        if not ship.base_ready and not ship.base_reading:
            if ship.base_page >= volume.pages:
                # Everything committed until now must be durable there before the copy counts as whole.
                add_head(ship, SP_FRAME_BASE_DONE, 0, volume.commit_lsn)
                ship.base_done = True
            else:
                read_granule(ship)
    if ship.head_count == 0 and ship.sent_commit < volume.commit_lsn:
        add_head(ship, SP_FRAME_COMMIT, 0, 0)
    if ship.iov_count > 0:
        ship.iov_done = 0
        send_rest(ship)


cdef void send_rest(Ship *ship) noexcept nogil:
    ship.msg.msg_iov = &ship.iov[ship.iov_done]
    ship.msg.msg_iovlen = ship.iov_count - ship.iov_done
    ship.volume.reactor.io.send(&ship.volume.reactor.io, &ship.send_op, ship.fd, &ship.msg)


cdef void release_sent(Ship *ship) noexcept nogil:
    cdef Core *core = <Core *>ship.volume.reactor.core
    cdef uint32_t i
    for i in range(ship.held_count):
        batch_drop(core, ship.held[i])
    for i in range(ship.page_count):
        page_drop(&core.reactor.pool, ship.pages[i])
    ship.held_count = 0
    ship.page_count = 0
    ship.head_count = 0
    ship.iov_count = 0


cdef void on_sent(Op *op, int32_t res) noexcept nogil:
    cdef Ship *ship = <Ship *>op.owner
    cdef uint64_t sent
    cdef iovec *iov
    if ship.peer == NULL:
        reap(ship)
        return
    if res <= 0:
        ship_drop(ship.peer, LOST_CLOSED)
        return
    sent = <uint64_t>res
    while sent > 0:
        iov = &ship.iov[ship.iov_done]
        if sent < iov.iov_len:
            iov.iov_base = <uint8_t *>iov.iov_base + sent
            iov.iov_len -= sent
            break
        sent -= iov.iov_len
        ship.iov_done += 1
    if ship.iov_done < ship.iov_count:
        send_rest(ship)
        return
    release_sent(ship)
    task_queue(ship.volume.reactor, &ship.task)


# ---------------------------------------------------------------- reading the log for a peer that is behind

cdef void read_log(Ship *ship, Rec *rec) noexcept nogil:
    cdef Volume *volume = ship.volume
    cdef uint32_t count = rec.bytes // BLOCK
    cdef uint32_t i
    if ship.read_op.busy:
        return
    if volume.reactor.pool.free_count < count:
        task_queue(volume.reactor, &ship.task)
        return
    for i in range(count):
        ship.read_pages[i] = page_take(&volume.reactor.pool)
        ship.read_iov[i].iov_base = ship.read_pages[i]
        ship.read_iov[i].iov_len = PAGE
    ship.read_count = count
    ship.read_check = rec.check
    volume.reactor.io.read(
        &volume.reactor.io, &ship.read_op, volume.log.fd, ship.read_iov, count, rec.offset
    )


cdef void on_log_read(Op *op, int32_t res) noexcept nogil:
    cdef Ship *ship = <Ship *>op.owner
    if ship.peer == NULL:
        reap(ship)
        return
    if (
        res != <int32_t>(ship.read_count * BLOCK)
        or not head_valid(ship.volume.key, ship.read_pages[0], BLOCK)
        or (<sp_wal_batch *>ship.read_pages[0]).check != ship.read_check
    ):
        # Overwritten while it was read (its space was released under pressure), or damaged: the peer asks anew.
        ship_drop(ship.peer, LOST_RECYCLED if ship.cursor < ship.volume.log.first else LOST_IO)
        return
    ship.read_ready = True
    task_queue(ship.volume.reactor, &ship.task)


# ---------------------------------------------------------------- base lane

cdef void read_granule(Ship *ship) noexcept nogil:
    cdef BlockReq *req = &ship.base_req
    req.volume = ship.volume
    req.kind = REQ_READ
    req.internal = True
    req.first_page = ship.base_page
    req.page_count = <uint32_t>min(<uint64_t>SP_BASE_PAGES_MAX, ship.volume.pages - ship.base_page)
    req.lsn = 0
    req.done = on_granule
    req.owner = ship
    ship.base_reading = True
    # Taken before the pages are looked up: what is read is at least as new as it says.
    ship.base_as_of = ship.volume.commit_lsn
    block_submit(req)


cdef void release_granule(Ship *ship) noexcept nogil:
    cdef uint32_t i
    for i in range(ship.base_req.page_count):
        page_drop(&ship.volume.reactor.pool, ship.base_req.pages[i])
    ship.base_ready = False


cdef void on_granule(BlockReq *req, int rc) noexcept nogil:
    cdef Ship *ship = <Ship *>req.owner
    cdef uint8_t *zero = ship.volume.reactor.pool.zero_page
    cdef uint32_t i
    cdef bint empty = True
    ship.base_reading = False
    if rc != 0:
        if ship.peer != NULL:
            ship_drop(ship.peer, LOST_IO)
        else:
            reap(ship)
        return
    ship.base_ready = True
    if ship.peer == NULL:
        reap(ship)
        return
    for i in range(req.page_count):
        if req.pages[i] != zero:
            empty = False
            break
    if empty and ship.live_pages <= live_window(ship.volume):
        # The follower began with nothing but holes. When the live lane waits, the frame's as-of LSN lets it go on.
        release_granule(ship)
        ship.base_page += req.page_count
    task_queue(ship.volume.reactor, &ship.task)


# ---------------------------------------------------------------- acks

cdef void recv_acks(Ship *ship) noexcept nogil:
    ship.volume.reactor.io.recv(
        &ship.volume.reactor.io, &ship.recv_op, ship.fd, ship.acks + ship.acks_have, sizeof(ship.acks) - ship.acks_have
    )


cdef void on_ack(Op *op, int32_t res) noexcept nogil:
    cdef Ship *ship = <Ship *>op.owner
    cdef uint32_t at = 0
    if ship.peer == NULL:
        reap(ship)
        return
    if res <= 0:
        ship_drop(ship.peer, LOST_CLOSED)
        return
    ship.acks_have += res
    while ship.acks_have - at >= SP_SHIP_ACK_SIZE:
        if not take_ack(ship, <sp_ship_ack *>(ship.acks + at)):
            ship_drop(ship.peer, LOST_PROTOCOL)
            return
        at += SP_SHIP_ACK_SIZE
    ship.acks_have -= at
    memmove(ship.acks, ship.acks + at, ship.acks_have)
    recv_acks(ship)


cdef bint take_ack(Ship *ship, sp_ship_ack *ack) noexcept nogil:
    cdef Peer *peer = ship.peer
    cdef Volume *volume = ship.volume
    cdef uint32_t check = ack.check
    ack.check = 0
    if (
        ack.magic != SP_ACK_MAGIC
        or check != sp_crc32c(0, ack, SP_SHIP_ACK_SIZE)
        or ack.term_epoch != ship.epoch
        or ack.term_start != ship.start
        or ack.durable_lsn > volume.log.head_lsn
    ):
        return False
    peer.heard_ns = now_boot(volume.reactor)
    peer.headroom = ack.headroom_pages
    peer.applied_lsn = ack.applied_lsn
    if ship.rebuild and not ship.rebuilt:
        if not (ack.flags & 1):
            return True
        # Only a whole copy may count for commits.
        ship.rebuilt = True
        event_up(volume, EVENT_PEER_REBUILT, peer.slot, ship.epoch, ship.start, ack.durable_lsn)
    if ack.durable_lsn > peer.acked_lsn:
        peer.acked_lsn = ack.durable_lsn
        task_queue(volume.reactor, &volume.commit_task)
        wake_reached(&peer.waiters, peer.acked_lsn)
    return True
