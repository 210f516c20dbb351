"""The commit LSN: what every replica needed has made durable.

Safety argument. A write is answered when its LSN is at or below the commit LSN; that is the minimum over this replica's
durable prefix and the acks of all peers `needed`, `in_sync U pending` under ack=sync. An ack counts only if it was
given in this term, after the peer had cut its log to the common point (Joined), so equal LSNs mean equal content. With
fewer than min_in_sync replicas only inherited entries and the term start may commit.

Nothing commits before the term-start entry does. Under ack=quorum the control side names peers of which the most
advanced counts (`one_of`), so an entry commits on two of three. An inherited entry alone on two of them could still be
cut: the third may have the start of a term in between, which is newer, and be adopted. With the start of this term on
the same two it cannot, for then theirs is the newest.

Under ack=local a write is answered, and seen by reads, when it is durable here. It commits, and is applied, when it is
on every replica needed like any other, so nothing that was applied is ever cut; what was answered and not committed is
what the loss of this replica loses.
"""

from libc.stdint cimport uint64_t

from sparrow._native.reactor cimport Task, Timer, now_boot, task_queue, timer_set
from sparrow._native.replication.pace cimport pace_note
from sparrow._native.reservations cimport table_lsn, table_tell
from sparrow._native.resize cimport resize_serve, resize_tell
from sparrow._native.volume cimport PEERS_MAX, BlockReq, Core, Peer, Volume
from sparrow._native.waiters cimport wake_reached

cdef enum:
    TELL_NS = 5000000         # an idle follower hears of a commit after 5 ms


cdef uint64_t commit_possible(Volume *volume) noexcept nogil:
    cdef uint64_t lsn = volume.log.durable_lsn
    cdef uint64_t best = 0
    cdef int i
    for i in range(PEERS_MAX):
        if volume.peers[i] == NULL:
            continue
        if volume.peers[i].needed:
            lsn = min(lsn, volume.peers[i].acked_lsn)
        if volume.peers[i].one_of:
            best = max(best, volume.peers[i].acked_lsn)
    if volume.any_of:
        lsn = min(lsn, best)
    if not volume.writable:
        lsn = min(lsn, volume.term_start_lsn)
    return lsn


cdef void answer(Volume *volume, uint64_t lsn) noexcept nogil:
    """Writes up to here are done."""
    cdef Core *core = <Core *>volume.reactor.core
    cdef BlockReq *req
    cdef uint64_t now = now_boot(volume.reactor) if volume.logged.head != NULL else 0
    while volume.logged.head != NULL and volume.logged.head.lsn <= lsn:
        req = volume.logged.head
        volume.logged.head = req.next
        if req.next == NULL:
            volume.logged.tail = NULL
        else:
            req.next.prev = NULL
        volume.logged.count -= 1
        req.state = 0
        pace_note(core, now, now - req.began_ns)
        req.done(req, 0)


cdef void advance(Volume *volume, uint64_t lsn) noexcept nogil:
    volume.commit_lsn = lsn
    if volume.resize_count != 0 and resize_serve(volume):
        resize_tell(volume)
    if table_lsn(volume) > volume.table_told:
        table_tell(volume)
    answer(volume, lsn)
    wake_reached(&volume.commit_waiters, lsn)
    task_queue(volume.reactor, &volume.flush.task)


cdef void run_commit(Task *task) noexcept nogil:
    cdef Volume *volume = <Volume *>task.owner
    cdef uint64_t lsn
    # Who closes has let its peers go, and nobody is needed any more: what they lack is not committed for that.
    if volume.primary and volume.term_start_lsn != 0 and not volume.condemned and not volume.closing:
        lsn = commit_possible(volume)
        if lsn > volume.commit_lsn and lsn >= volume.term_start_lsn:
            advance(volume, lsn)
            if volume.commit_timer.slot == 0:
                timer_set(volume.reactor, &volume.commit_timer, now_boot(volume.reactor) + TELL_NS)
        if volume.ack_local and volume.writable and volume.commit_lsn >= volume.term_start_lsn:
            volume.ack_lsn = max(volume.ack_lsn, volume.log.durable_lsn)
            answer(volume, volume.ack_lsn)
    if volume.queued.head != NULL or volume.held.head != NULL:
        task_queue(volume.reactor, &volume.resume_task)


cdef void tell_peers(Timer *timer) noexcept nogil:
    """Followers apply, and serve as donors of pages, only what they know to be committed."""
    cdef Volume *volume = <Volume *>timer.owner
    cdef Peer *peer
    cdef int i
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer != NULL and peer.ship != NULL and peer.ship.sent_commit < volume.commit_lsn:
            task_queue(volume.reactor, &peer.ship.task)


cdef void commit_hear(Volume *volume, uint64_t lsn) noexcept nogil:
    lsn = min(lsn, volume.log.head_lsn)
    if lsn > volume.commit_lsn:
        advance(volume, lsn)


cdef void commit_init(Volume *volume) noexcept nogil:
    volume.commit_task.run = run_commit
    volume.commit_task.owner = volume
    volume.commit_timer.fire = tell_peers
    volume.commit_timer.owner = volume
