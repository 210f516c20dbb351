"""The loop: reap completions, read mail, fire timers, run tasks, submit once, sleep."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.io.uring cimport uring_enable, uring_fill
from sparrow._native.mailbox cimport Mail, mailbox_close, mailbox_open, mailbox_ring_up, ring_pop, ring_push
from sparrow._native.pool cimport pool_close, pool_open
from sparrow._native.sys cimport EAGAIN, ENOMEM, EINTR, calloc, free, memset, realloc, sp_assert
from sparrow._native.uring cimport io_uring


cdef enum:
    TASKS_MAX = 512


cdef int reactor_open(
    Reactor *reactor, void *ring, const Io *table, uint32_t page_count, uint32_t lent
) noexcept nogil:
    cdef int rc
    memset(reactor, 0, sizeof(Reactor))
    if table != NULL:
        reactor.io = table[0]
    else:
        uring_fill(&reactor.io, <io_uring *>ring)
    reactor.heap_room = 256
    reactor.heap = <Timer **>calloc(reactor.heap_room, sizeof(Timer *))
    if reactor.heap == NULL:
        return -ENOMEM
    rc = pool_open(&reactor.pool, page_count, lent)
    if rc == 0:
        rc = mailbox_open(&reactor.mail, table == NULL)
    if rc < 0:
        reactor_close(reactor)
    return rc


cdef void reactor_close(Reactor *reactor) noexcept nogil:
    pool_close(&reactor.pool)
    mailbox_close(&reactor.mail)
    free(reactor.heap)
    reactor.heap = NULL


# ---------------------------------------------------------------- timers: a binary heap on at_ns

cdef inline void heap_put(Reactor *reactor, uint32_t i, Timer *timer) noexcept nogil:
    reactor.heap[i] = timer
    timer.slot = i + 1


cdef void heap_up(Reactor *reactor, uint32_t i) noexcept nogil:
    cdef Timer *timer = reactor.heap[i]
    cdef uint32_t parent
    while i > 0:
        parent = (i - 1) // 2
        if reactor.heap[parent].at_ns <= timer.at_ns:
            break
        heap_put(reactor, i, reactor.heap[parent])
        i = parent
    heap_put(reactor, i, timer)


cdef void heap_down(Reactor *reactor, uint32_t i) noexcept nogil:
    cdef Timer *timer = reactor.heap[i]
    cdef uint32_t child
    while True:
        child = 2 * i + 1
        if child >= reactor.heap_count:
            break
        if child + 1 < reactor.heap_count and reactor.heap[child + 1].at_ns < reactor.heap[child].at_ns:
            child += 1
        if timer.at_ns <= reactor.heap[child].at_ns:
            break
        heap_put(reactor, i, reactor.heap[child])
        i = child
    heap_put(reactor, i, timer)


cdef void timer_clear(Reactor *reactor, Timer *timer) noexcept nogil:
    cdef uint32_t i
    cdef Timer *last
    if timer.slot == 0:
        return
    i = timer.slot - 1
    timer.slot = 0
    reactor.heap_count -= 1
    last = reactor.heap[reactor.heap_count]
    if last != timer:
        heap_put(reactor, i, last)
        heap_up(reactor, i)
        heap_down(reactor, last.slot - 1)


cdef void timer_set(Reactor *reactor, Timer *timer, uint64_t at_ns) noexcept nogil:
    """Set or move; a moment in the past fires in this turn."""
    cdef Timer **larger
    timer_clear(reactor, timer)
    if reactor.heap_count == reactor.heap_room:
        larger = <Timer **>realloc(reactor.heap, 2 * reactor.heap_room * sizeof(Timer *))
        sp_assert(larger != NULL, b"no memory for timers")
        reactor.heap = larger
        reactor.heap_room *= 2
    timer.at_ns = at_ns
    reactor.heap_count += 1
    heap_put(reactor, reactor.heap_count - 1, timer)
    heap_up(reactor, reactor.heap_count - 1)


cdef void on_wake(Op *op, int32_t res) noexcept nogil:
    cdef Reactor *reactor = <Reactor *>op.owner
    if op.tag == reactor.armed_ns:
        reactor.armed_ns = 0


cdef void arm(Reactor *reactor) noexcept nogil:
    """Keep a kernel timeout at or before the earliest timer; an early one only costs a look."""
    cdef uint64_t at
    cdef int i
    if reactor.heap_count == 0:
        return
    at = reactor.heap[0].at_ns
    if reactor.armed_ns != 0 and reactor.armed_ns <= at:
        return
    for i in range(4):
        if not reactor.wake[i].busy:
            reactor.wake[i].done = on_wake
            reactor.wake[i].owner = reactor
            reactor.wake[i].tag = at
            reactor.armed_ns = at
            reactor.io.wake_at(&reactor.io, &reactor.wake[i], at)
            return
    # All in flight and all later than `at`: end one early, its completion brings us back here.
    reactor.io.cancel(&reactor.io, &reactor.wake[0])


cdef void fire_due(Reactor *reactor) noexcept nogil:
    cdef uint64_t now = reactor.io.boot_ns(&reactor.io)
    cdef Timer *timer
    while reactor.heap_count > 0 and reactor.heap[0].at_ns <= now:
        timer = reactor.heap[0]
        timer_clear(reactor, timer)
        timer.fire(timer)


# ---------------------------------------------------------------- mail

cdef void on_mail_event(Op *op, int32_t res) noexcept nogil:
    cdef Reactor *reactor = <Reactor *>op.owner
    sp_assert(res == 8 or res == -EAGAIN or res == -EINTR, b"the mailbox's eventfd cannot be read")


cdef void read_mail(Reactor *reactor) noexcept nogil:
    cdef Mail mail
    if not reactor.mail_op.busy:
        reactor.mail_op.done = on_mail_event
        reactor.mail_op.owner = reactor
        reactor.io.read_event(&reactor.io, &reactor.mail_op, reactor.mail.down_fd, &reactor.mail_value)
    while ring_pop(&reactor.mail.down, &mail):
        reactor.on_mail(reactor, &mail)


cdef void send_up(Reactor *reactor, Mail *mail) noexcept nogil:
    sp_assert(ring_push(&reactor.mail.up, mail), b"Python does not read the core's events")
    reactor.mail.up_written = True


# ---------------------------------------------------------------- loop

cdef int reactor_turn(Reactor *reactor, bint wait) noexcept nogil:
    cdef Task *task
    cdef uint32_t passes = 0
    reactor.turns += 1
    read_mail(reactor)
    fire_due(reactor)
    # A task may queue others; a few rounds are run before the kernel is asked again, so that nothing starves.
    while reactor.task_head != NULL and passes < TASKS_MAX:
        passes += 1
        task = reactor.task_head
        reactor.task_head = task.next
        if reactor.task_head == NULL:
            reactor.task_tail = NULL
        task.queued = False
        task.run(task)
    mailbox_ring_up(&reactor.mail)
    arm(reactor)
    return reactor.io.turn(&reactor.io, wait and not reactor.stopping and reactor.task_head == NULL)


cdef int reactor_run(Reactor *reactor) noexcept nogil:
    cdef int rc = uring_enable(&reactor.io)
    if rc < 0:
        return rc
    while not reactor.stopping:
        rc = reactor_turn(reactor, True)
        if rc < 0:
            return rc
    mailbox_ring_up(&reactor.mail)
    return 0
