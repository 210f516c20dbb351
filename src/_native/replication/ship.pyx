"""Shipping: one cursor per peer walks the log, from memory at the head, from the ring behind it.

Catch-up and live shipping are the same thing at different cursors, so there is no switch between them at which an LSN
could be missed or sent twice. One send is outstanding per socket; what was closed meanwhile joins the next gather. A
rebuild adds a base lane on the same socket (base_send.pyx): its frames go between the batches.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.control.prepare cimport KEEP_ALL
from sparrow._native.events cimport EVENT_PEER_LOST, EVENT_PEER_REBUILT, event_up
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_ACK_MAGIC, SP_FRAME_BATCH, SP_FRAME_COMMIT, SP_SHIP_ACK_SIZE, sp_ship_ack,
)
from sparrow._native.reactor cimport Task, now_boot, task_queue
from sparrow._native.replication.base_send cimport (
    base_announce, base_begin, base_end, base_go_on, base_stop, live_may_go,
)
from sparrow._native.replication.compose cimport (
    SEND_BYTES, SEND_HEADS, SEND_LOG_PAGES, add_batch, add_head, add_page, release_sent,
)
from sparrow._native.replication.log_read cimport (
    log_read_ahead, log_read_busy, log_read_end, log_read_ready, log_read_taken,
)
from sparrow._native.replication.peers cimport peer_for
from sparrow._native.sys cimport ENOENT, ENOMEM, EPIPE, calloc, free, iovec, memmove, sp_crc32c
from sparrow._native.volume cimport PEERS_MAX, SEND_IOV, BasePlan, LogRead, Peer, Rec, Ship, Volume
from sparrow._native.waiters cimport wake_all, wake_reached
from sparrow._native.wal.log cimport BLOCK, log_age, log_check_at, log_find, log_rec

cdef uint64_t NOWHERE = <uint64_t>-1


cdef void is_on(Peer *peer, uint32_t node_key) noexcept nogil:
    """Whatever another node promised says nothing of this one."""
    peer.node_key = node_key
    peer.right_boot = 0
    peer.right_raw = 0


cdef int ship_start(
    Volume *volume, uint64_t slot, uint32_t node_key, int fd, uint64_t joined_lsn, const BasePlan *plan
) noexcept nogil:
    cdef Peer *peer = NULL
    cdef Ship *ship
    cdef uint64_t cursor
    cdef uint64_t after = joined_lsn
    cdef uint32_t check
    cdef int rc
    if plan != NULL:
        after = plan.joined_lsn if plan.keep == KEEP_ALL else volume.commit_lsn
    if after == volume.log.head_lsn:
        cursor = volume.log.next
    else:
        cursor = log_find(volume, after + 1)
        if cursor == NOWHERE:
            return -ENOENT
    if not log_check_at(volume, after, &check):
        return -ENOENT
    rc = peer_for(volume, slot, &peer)
    if rc < 0:
        return rc
    if peer.ship != NULL:
        ship_drop(peer, LOST_DROPPED)
    ship = <Ship *>calloc(1, sizeof(Ship))
    if ship == NULL:
        return -ENOMEM
    ship.peer = peer
    ship.volume = volume
    if plan != NULL:
        rc = base_begin(ship, plan)
        if rc < 0:
            free(ship)
            return rc
        ship.base_as_of = volume.commit_lsn
    volume.reactor.io.no_delay(&volume.reactor.io, fd)
    ship.fd = fd
    ship.epoch = volume.term_epoch
    ship.start = volume.term_start
    ship.cursor = cursor
    ship.task.run = run_ship
    ship.task.owner = ship
    ship.send_op.done = on_sent
    ship.send_op.owner = ship
    ship.recv_op.done = on_ack
    ship.recv_op.owner = ship
    volume.links += 1
    peer.ship = ship
    if peer.node_key != node_key:
        is_on(peer, node_key)
    peer.acked_lsn = joined_lsn if plan == NULL else 0
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
    base_stop(ship)
    if cause != LOST_DROPPED:
        event_up(volume, EVENT_PEER_LOST, peer.slot, ship.epoch, ship.start, cause)
    wake_all(&peer.waiters, -EPIPE)
    volume.reactor.io.shutdown(&volume.reactor.io, ship.fd)
    volume.reactor.io.cancel(&volume.reactor.io, &ship.recv_op)
    volume.reactor.io.cancel(&volume.reactor.io, &ship.send_op)
    reap(ship)


cdef void reap(Ship *ship) noexcept nogil:
    """Free a link that is over once the kernel holds nothing of it."""
    if ship.peer != NULL or ship.send_op.busy or ship.recv_op.busy or log_read_busy(ship) or ship.granule_reads > 0:
        return
    if ship.task.queued:
        return
    release_sent(ship)
    log_read_end(ship)
    base_end(ship)
    ship.volume.reactor.io.close(&ship.volume.reactor.io, ship.fd)
    ship.volume.links -= 1
    free(ship)


cdef void ship_drop_all(Volume *volume) noexcept nogil:
    cdef int i
    for i in range(PEERS_MAX):
        if volume.peers[i] != NULL:
            ship_drop(volume.peers[i], LOST_DROPPED)
            volume.peers[i].needed = False
            volume.peers[i].one_of = False
            volume.peers[i].acked_lsn = 0
            volume.peers[i].right_boot = 0
            volume.peers[i].right_raw = 0


cdef void peers_free(Volume *volume) noexcept nogil:
    cdef int i
    for i in range(PEERS_MAX):
        free(volume.peers[i])
        volume.peers[i] = NULL


# ---------------------------------------------------------------- sending

cdef void run_ship(Task *task) noexcept nogil:
    cdef Ship *ship = <Ship *>task.owner
    cdef Volume *volume = ship.volume
    cdef Rec *rec
    cdef LogRead *read
    cdef uint64_t bytes_now = 0
    cdef uint32_t i
    if ship.peer == NULL:
        reap(ship)
        return
    if ship.cursor < volume.log.first:
        # Also while a send waits for a peer that reads nothing.
        ship_drop(ship.peer, LOST_RECYCLED)
        return
    log_read_ahead(ship)
    if ship.send_op.busy:
        return
    if ship.base_failed:
        ship_drop(ship.peer, LOST_IO)
        return
    if ship.rebuild and not ship.base_started and not base_announce(ship):
        task_queue(volume.reactor, task)
        return
    while (
        ship.cursor < volume.log.next and ship.head_count < SEND_HEADS and bytes_now < SEND_BYTES and live_may_go(ship)
    ):
        rec = log_rec(volume, ship.cursor)
        # A large batch may not fit the vector any more; it goes first next time.
        if ship.iov_count + 2 + rec.bytes // BLOCK > SEND_IOV:
            break
        if rec.mem != NULL:
            bytes_now += add_batch(ship, rec.mem)
        else:
            read = log_read_ready(ship)
            if read == NULL or ship.page_count + rec.bytes // BLOCK > SEND_LOG_PAGES:
                break
            add_head(ship, SP_FRAME_BATCH, rec.bytes, 0)
            for i in range(rec.bytes // BLOCK):
                add_page(ship, read.pages[read.at + i])
            log_read_taken(read)
            bytes_now += rec.bytes
        ship.live_pages += rec.bytes // BLOCK
        ship.live_zeros += rec.zeros
        ship.peer.log_bytes += rec.bytes
        ship.cursor += 1
    log_read_ahead(ship)
    if ship.rebuild:
        base_go_on(ship)
    if ship.head_count == 0 and ship.sent_commit < volume.commit_lsn:
        add_head(ship, SP_FRAME_COMMIT, 0, 0)
    if ship.iov_count > 0:
        ship.iov_done = 0
        send_rest(ship)


cdef void send_rest(Ship *ship) noexcept nogil:
    ship.msg.msg_iov = &ship.iov[ship.iov_done]
    ship.msg.msg_iovlen = ship.iov_count - ship.iov_done
    ship.volume.reactor.io.send(&ship.volume.reactor.io, &ship.send_op, ship.fd, &ship.msg)


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


cdef void note_pace(Peer *peer, uint64_t took_ns) noexcept nogil:
    """Keep the slowest ack of two half seconds: whoever looks every half a second misses none."""
    if peer.heard_ns > peer.worst_since_ns + WORST_NS:
        peer.worst_before_ns = peer.worst_ns if peer.heard_ns < peer.worst_since_ns + 2 * WORST_NS else 0
        peer.worst_ns = 0
        peer.worst_since_ns = peer.heard_ns
    peer.worst_ns = max(peer.worst_ns, took_ns)


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
    if ship.acked_ns == 0:
        ship.acked_ns = peer.heard_ns
    if ship.alive_ns != 0:
        ship.alive_ns = peer.heard_ns
    peer.headroom = ack.headroom_pages
    peer.applied_lsn = ack.applied_lsn
    if ack.base_marks != ship.marks_acked:
        ship.marks_acked = <uint32_t>ack.base_marks
        task_queue(volume.reactor, &ship.task)
    if ship.rebuild and not ship.rebuilt:
        if not (ack.flags & 1):
            return True
        # Only a whole copy may count for commits.
        ship.rebuilt = True
        event_up(volume, EVENT_PEER_REBUILT, peer.slot, ship.epoch, ship.start, ack.durable_lsn)
    if ack.durable_lsn > peer.acked_lsn:
        note_pace(peer, log_age(volume, peer.acked_lsn, peer.heard_ns))
        peer.acked_lsn = ack.durable_lsn
        task_queue(volume.reactor, &volume.commit_task)
        if ship.cursor < volume.log.next:
            # It may be what reading waits for.
            task_queue(volume.reactor, &ship.task)
        wake_reached(&peer.waiters, peer.acked_lsn)
    return True
