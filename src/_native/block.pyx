"""Admission of commands: gate, room, then the log or the read path; and the lists of those that wait.

A command that finds the gate closed for want of a grant is held without an LSN, up to `fence_hold`, then gets the
path error; at once when the control side closed the gate, for then a newer line is known. Reservations are looked at in
the turn in which a command gets its LSN or its view (reservations.pyx). A held command has no LSN, so
it can be taken back when its connection ends: it never lands after a retry of the same client did.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.extent.dirty cimport dirty_room, dirty_zero_room
from sparrow._native.extent.flusher cimport flush_urge
from sparrow._native.extent.read cimport await_repair, read_repaired, read_start
from sparrow._native.extent.room cimport ROOM_NO, ROOM_WAIT, RoomVerdict, room_for, room_take
from sparrow._native.gate cimport gate_is_open, gate_may_return
from sparrow._native.layout cimport SP_ENTRY_WRITE, SP_ENTRY_ZERO, SP_ZERO_PAGES_MAX
from sparrow._native.merge cimport (
    MERGE_FULL, MERGE_WAIT, MergeVerdict, merge_differs, merge_fill, merge_prepare, merge_release, merge_wanted,
)
from sparrow._native.pool cimport page_drop
from sparrow._native.reactor cimport Task, Timer, now_boot, task_queue, timer_set
from sparrow._native.reqlist cimport list_add, list_remove
from sparrow._native.reservations cimport MAY_READ, MAY_WRITE, nexus_may
from sparrow._native.sys cimport EBADMSG, ECANCELED, EILSEQ, EINVAL, EIO, ENOMEM, ENOSPC, EPERM, ESTALE
from sparrow._native.volume cimport (
    PEERS_MAX, REQ_FLUSH, REQ_HELD, REQ_IDLE, REQ_LOGGED, REQ_LOOK, REQ_MERGING, REQ_PAGES_MAX, REQ_QUEUED, REQ_READ,
    REQ_WRITE, REQ_ZERO, BlockReq, Core, ReqList, Volume, Waiter,
)
from sparrow._native.waiters cimport waiter_add
from sparrow._native.wal.log cimport log_append, log_room

cdef uint64_t RETRY_NS = 5000000


cdef void drop_pages(BlockReq *req) noexcept nogil:
    cdef uint32_t i
    if req.kind == REQ_WRITE:
        for i in range(req.page_count):
            page_drop(&req.volume.reactor.pool, req.pages[i])


cdef void refuse(BlockReq *req, int rc) noexcept nogil:
    req.state = REQ_IDLE
    merge_release(req)
    drop_pages(req)
    req.done(req, rc)


cdef inline bint forbidden(Volume *volume, BlockReq *req) noexcept nogil:
    """By a reservation, in the turn in which it would get its LSN: reservations.pyx says why not before."""
    return not nexus_may(volume, req.nexus, MAY_WRITE)


cdef bint try_zero(BlockReq *req) noexcept nogil:
    """The same for zeros: no payload, no page of the pool, no room in the pool's file system."""
    cdef Volume *volume = req.volume
    cdef uint64_t lsn = 0
    if forbidden(volume, req):
        refuse(req, -EPERM)
        return True
    if log_room(volume) and dirty_zero_room(volume, 1):
        lsn = log_append(volume, SP_ENTRY_ZERO, req.first_page, req.page_count, NULL)
    if lsn == 0:
        flush_urge(volume)
        return False
    req.lsn = lsn
    req.state = REQ_LOGGED
    list_add(&volume.logged, req)
    volume.stats.writes += 1
    return True


cdef int stopped(const Volume *volume) noexcept nogil:
    """What commands get from a condemned replica: the path error where another one may serve, else the truth."""
    cdef int i
    for i in range(PEERS_MAX):
        if volume.peers[i] != NULL:
            return -ESTALE
    return -EIO


cdef bint equal(BlockReq *req) noexcept nogil:
    """Is there what the request compares with? If not it is answered, once what it has seen can no longer vanish."""
    cdef Volume *volume = req.volume
    cdef uint32_t at = 0
    cdef uint64_t lsn = 0
    if not merge_differs(req, &at, &lsn):
        return True
    req.bad_page = at
    merge_release(req)
    if lsn <= volume.commit_lsn:
        refuse(req, -EILSEQ)
        return False
    req.state = REQ_MERGING
    req.waiter.wake = on_seen_committed
    req.waiter.owner = req
    req.waiter.arg = lsn
    waiter_add(&volume.commit_waiters, &req.waiter)
    return False


cdef void on_seen_committed(Waiter *waiter, int rc) noexcept nogil:
    cdef BlockReq *req = <BlockReq *>waiter.owner
    if rc == 0 and not nexus_may(req.volume, req.nexus, MAY_WRITE):
        rc = -EPERM
    else:
        rc = -EILSEQ if rc == 0 else -ESTALE
    refuse(req, rc)


cdef bint try_write(BlockReq *req) noexcept nogil:
    """Give it an LSN if there is room; the gate was found open in this turn."""
    cdef Volume *volume = req.volume
    cdef Core *core = <Core *>volume.reactor.core
    cdef MergeVerdict verdict
    cdef uint64_t lsn = 0
    cdef uint32_t i
    if req.kind == REQ_ZERO:
        return try_zero(req)
    if forbidden(volume, req):
        refuse(req, -EPERM)
        return True
    if merge_wanted(req):
        # Not before its turn comes: what is known too early only has to be kept.
        verdict = merge_prepare(req, block_submit, refuse)
        if verdict == MERGE_WAIT:
            return True
        if verdict == MERGE_FULL:
            return False
        if req.compare != NULL and not equal(req):
            return True
    if log_room(volume) and dirty_room(core, volume, req.page_count):
        if req.merge != NULL:
            merge_fill(req)
        lsn = log_append(volume, SP_ENTRY_WRITE, req.first_page, req.page_count, req.pages)
    if lsn == 0:
        flush_urge(volume)
        return False
    for i in range(req.page_count):
        page_drop(&volume.reactor.pool, req.pages[i])
        req.pages[i] = NULL
    merge_release(req)
    room_take(volume, req.page_count)
    req.lsn = lsn
    req.state = REQ_LOGGED
    list_add(&volume.logged, req)
    volume.stats.writes += 1
    volume.stats.written_bytes += <uint64_t>req.page_count * 4096
    return True


cdef void queue(BlockReq *req) noexcept nogil:
    """Wait for room. The room may be held by other volumes, whose progress tells nobody here: it is looked for again."""
    cdef Volume *volume = req.volume
    req.state = REQ_QUEUED
    list_add(&volume.queued, req)
    retry_soon(volume)


cdef void look_by(Volume *volume, uint64_t at) noexcept nogil:
    """Those that wait are looked at then, or before."""
    if volume.held_timer.slot == 0 or volume.held_timer.at_ns > at:
        timer_set(volume.reactor, &volume.held_timer, at)


cdef void retry_soon(Volume *volume) noexcept nogil:
    look_by(volume, now_boot(volume.reactor) + RETRY_NS)


cdef uint64_t logged_until(const Volume *volume) noexcept nogil:
    """When what has an LSN has waited long enough, counted from the first of what it lacks; 0 when it lacks nothing.

    The right to answer often goes after the replica that gave it: a second hold must not begin with that.
    """
    cdef uint64_t since = 0
    if volume.logged.head == NULL:
        return 0
    if not volume.gate.open:
        since = volume.gate.closed_ns
    if not volume.writable and (since == 0 or volume.blocked_ns < since):
        since = volume.blocked_ns
    return since + (<Core *>volume.reactor.core).fence_hold_ns if since != 0 else 0


cdef void admit_write(BlockReq *req) noexcept nogil:
    """Log it, queue it behind others, or refuse it for want of room."""
    cdef Volume *volume = req.volume
    cdef RoomVerdict room
    if req.kind == REQ_ZERO:
        if volume.queued.head != NULL or not try_write(req):
            queue(req)
        return
    req.waiter.wake = on_room_known
    req.waiter.owner = req
    volume.reading += 1
    room = room_for(req)
    if room == ROOM_WAIT:
        # Whoever waits for a sums block has no LSN and keeps no place in the queue.
        return
    volume.reading -= 1
    if room == ROOM_NO:
        refuse(req, -ENOSPC)
    elif volume.queued.head != NULL or not try_write(req):
        if volume.pool_full:
            refuse(req, -ENOSPC)
        else:
            queue(req)


cdef void on_room_known(Waiter *waiter, int rc) noexcept nogil:
    """The sums block is there: begin again with the gate, for time has passed."""
    cdef BlockReq *req = <BlockReq *>waiter.owner
    if rc == -EBADMSG and not req.volume.closing and not req.taken_back:
        # Whether the pages have a place is known when their sums block is whole again. Another base may be right by then.
        merge_release(req)
        await_repair(req)
        return
    req.volume.reading -= 1
    if req.taken_back:
        refuse(req, -ECANCELED)
    elif rc == -ENOMEM and not req.volume.closing:
        # No frame is free for the block now: it waits like anybody who waits for room.
        queue(req)
    elif rc < 0:
        refuse(req, -EIO)
    else:
        block_submit(req)


cdef void hold(BlockReq *req) noexcept nogil:
    cdef Volume *volume = req.volume
    cdef Core *core = <Core *>volume.reactor.core
    req.state = REQ_HELD
    merge_release(req)
    req.lsn = now_boot(volume.reactor) + core.fence_hold_ns
    list_add(&volume.held, req)
    look_by(volume, req.lsn)


cdef void block_submit(BlockReq *req) noexcept nogil:
    cdef Volume *volume = req.volume
    cdef uint64_t size = volume.pages if req.internal else volume.served
    if (
        req.page_count > (SP_ZERO_PAGES_MAX if req.kind == REQ_ZERO else REQ_PAGES_MAX)
        or req.first_page > size
        or req.page_count > size - req.first_page
        or (req.kind != REQ_FLUSH and req.kind != REQ_LOOK and req.page_count == 0)
    ):
        refuse(req, -EINVAL)
        return
    if volume.closing or not volume.opened:
        refuse(req, -ESTALE)
        return
    if req.internal:
        read_start(req)
        return
    if volume.condemned:
        refuse(req, stopped(volume))
        return
    if not gate_is_open(volume):
        if gate_may_return(volume):
            hold(req)
        else:
            refuse(req, -ESTALE)
        return
    req.epoch = volume.term_epoch
    if req.kind == REQ_READ:
        volume.stats.reads += 1
        volume.stats.read_bytes += <uint64_t>req.page_count * 4096
        read_start(req)
    elif req.kind == REQ_WRITE or req.kind == REQ_ZERO:
        req.began_ns = now_boot(volume.reactor)
        if volume.frozen:
            refuse(req, -EIO)
        elif not volume.writable:
            hold(req)
        else:
            admit_write(req)
    else:
        # Every acknowledged write is durable on all replicas already.
        req.state = REQ_IDLE
        req.done(
            req, 0 if nexus_may(volume, req.nexus, MAY_READ if req.kind == REQ_LOOK else MAY_WRITE) else -EPERM
        )


cdef bint block_abort(BlockReq *req) noexcept nogil:
    if req.state == REQ_HELD:
        list_remove(&req.volume.held, req)
    elif req.state == REQ_QUEUED:
        list_remove(&req.volume.queued, req)
    else:
        # Without an LSN it ends when what it waits for is read.
        req.taken_back = req.state != REQ_LOGGED
        return False
    refuse(req, -ECANCELED)
    return True


cdef void refuse_writes(ReqList *where) noexcept nogil:
    """Those without an LSN; reads go on."""
    cdef BlockReq *req = where.head
    cdef BlockReq *next_one
    while req != NULL:
        next_one = req.next
        if req.kind == REQ_WRITE or req.kind == REQ_ZERO:
            list_remove(where, req)
            refuse(req, -EIO)
        req = next_one


cdef void resume(Task *task) noexcept nogil:
    """Something changed: gate, room, membership, health."""
    cdef Volume *volume = <Volume *>task.owner
    cdef BlockReq *req
    cdef uint32_t count = volume.queued.count
    cdef bint stuck = False
    if volume.condemned:
        block_fail_all(volume, stopped(volume))
        return
    if volume.frozen:
        refuse_writes(&volume.held)
        refuse_writes(&volume.queued)
    if not gate_is_open(volume):
        # The core's own reads need no gate; the rest waits as what comes now does.
        while count > 0 and volume.queued.head != NULL:
            count -= 1
            req = volume.queued.head
            list_remove(&volume.queued, req)
            if req.internal:
                read_start(req)
            else:
                hold(req)
        if not gate_may_return(volume):
            # Superseded, fenced or told to stop: the path error, at once. What has an LSN waits for its commit no more:
            # this replica can commit nothing in this term, and cannot know what its successor adopts.
            fail_list(&volume.held, -ESTALE)
            fail_list(&volume.logged, -ESTALE)
            fail_damaged(volume)
        elif logged_until(volume) != 0:
            look_by(volume, logged_until(volume))
        return
    count = volume.held.count
    while count > 0 and volume.held.head != NULL:
        count -= 1
        req = volume.held.head
        list_remove(&volume.held, req)
        req.state = REQ_IDLE
        if (req.kind == REQ_WRITE or req.kind == REQ_ZERO) and not volume.writable:
            req.state = REQ_HELD
            list_add(&volume.held, req)
            continue
        block_submit(req)
    count = volume.queued.count
    while count > 0 and volume.queued.head != NULL:
        count -= 1
        req = volume.queued.head
        list_remove(&volume.queued, req)
        if req.kind == REQ_READ:
            read_start(req)
        elif not volume.writable:
            hold(req)
        elif stuck or not try_write(req):
            if volume.pool_full and req.kind == REQ_WRITE:
                refuse(req, -ENOSPC)
                continue
            # Every write goes round once, so they keep their order; reads do not wait behind them.
            stuck = True
            list_add(&volume.queued, req)
    if stuck:
        retry_soon(volume)
    if logged_until(volume) != 0:
        look_by(volume, logged_until(volume))


cdef void on_held_timer(Timer *timer) noexcept nogil:
    """Those who waited long enough get the path error; postponed reads are tried again."""
    cdef Volume *volume = <Volume *>timer.owner
    cdef uint64_t now = now_boot(volume.reactor)
    cdef uint64_t earliest = 0
    cdef uint64_t until
    cdef BlockReq *req = volume.held.head
    cdef BlockReq *next_one
    while req != NULL:
        next_one = req.next
        if req.lsn <= now:
            list_remove(&volume.held, req)
            refuse(req, -ESTALE)
        elif earliest == 0 or req.lsn < earliest:
            earliest = req.lsn
        req = next_one
    # Logged, but the right to answer or a replica to commit on did not come back in time: the client must ask elsewhere
    # what became of it.
    until = logged_until(volume)
    if until != 0:
        if until <= now:
            fail_list(&volume.logged, -ESTALE)
        elif earliest == 0 or until < earliest:
            earliest = until
    if volume.queued.head != NULL:
        task_queue(volume.reactor, &volume.resume_task)
    if earliest != 0:
        timer_set(volume.reactor, timer, earliest)


cdef void on_damaged_timer(Timer *timer) noexcept nogil:
    cdef Volume *volume = <Volume *>timer.owner
    cdef uint64_t now = now_boot(volume.reactor)
    cdef BlockReq *req
    while volume.damaged.head != NULL and volume.damaged.head.lsn <= now:
        read_repaired(volume, volume.damaged.head.bad_page, -EIO)
    req = volume.damaged.head
    if req != NULL:
        timer_set(volume.reactor, timer, req.lsn)


cdef void fail_list(ReqList *where, int rc) noexcept nogil:
    cdef BlockReq *req
    while where.head != NULL:
        req = where.head
        list_remove(where, req)
        if req.state == REQ_LOGGED:
            req.state = REQ_IDLE
            req.done(req, rc)
        else:
            refuse(req, rc)


cdef void fail_damaged(Volume *volume) noexcept nogil:
    while volume.damaged.head != NULL:
        read_repaired(volume, volume.damaged.head.bad_page, -EIO)


cdef void block_fail_all(Volume *volume, int rc) noexcept nogil:
    fail_list(&volume.held, rc)
    fail_list(&volume.queued, rc)
    fail_list(&volume.logged, rc)
    fail_damaged(volume)


cdef void block_init(Volume *volume) noexcept nogil:
    volume.resume_task.run = resume
    volume.resume_task.owner = volume
    volume.held_timer.fire = on_held_timer
    volume.held_timer.owner = volume
    volume.damaged_timer.fire = on_damaged_timer
    volume.damaged_timer.owner = volume
