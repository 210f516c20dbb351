# One thread, one ring, one loop: completions, then tasks, then one submit. Everything else in the core runs on it.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.mailbox cimport Mail, Mailbox
from sparrow._native.pool cimport Pool


ctypedef void (*task_run)(Task *task) noexcept nogil
ctypedef void (*timer_fire)(Timer *timer) noexcept nogil

# Work for the end of this turn, however often it is asked for: the cork that makes batches.
cdef struct Task:
    task_run run
    void *owner
    Task *next
    bint queued

# One moment on CLOCK_BOOTTIME. In the heap while `slot` is not 0.
cdef struct Timer:
    timer_fire fire
    void *owner
    uint64_t at_ns
    uint32_t slot          # position in the heap plus 1

cdef struct Reactor:
    Io io
    Pool pool
    Mailbox mail
    Task *task_head
    Task *task_tail
    Timer **heap
    uint32_t heap_count
    uint32_t heap_room
    Op wake[4]             # kernel timeouts in flight; the earliest is what counts
    uint64_t armed_ns      # earliest of them, 0 for none
    Op mail_op
    uint64_t mail_value
    void (*on_mail)(Reactor *reactor, Mail *mail) noexcept nogil
    void *core             # the room above: volumes, links, sessions
    bint stopping
    uint64_t turns

# `table` is copied; a reactor on another table than the kernel's ring is given its turns by reactor_turn.
cdef int reactor_open(Reactor *reactor, void *ring, const Io *table, uint32_t page_count, uint32_t lent) noexcept nogil
cdef void reactor_close(Reactor *reactor) noexcept nogil
# The loop; returns 0 when told to stop, or -errno of the ring. Thread: the reactor's own.
cdef int reactor_run(Reactor *reactor) noexcept nogil
# One turn of it: mail, timers, tasks, then completions. Sleeps for one only when `wait` and nothing else is to be done.
cdef int reactor_turn(Reactor *reactor, bint wait) noexcept nogil
cdef void timer_set(Reactor *reactor, Timer *timer, uint64_t at_ns) noexcept nogil
cdef void timer_clear(Reactor *reactor, Timer *timer) noexcept nogil
# Send an event or a completion up. Never fails: Python must keep up with a bounded number of commands in flight.
cdef void send_up(Reactor *reactor, Mail *mail) noexcept nogil


cdef inline void task_queue(Reactor *reactor, Task *task) noexcept nogil:
    if task.queued:
        return
    task.queued = True
    task.next = NULL
    if reactor.task_tail == NULL:
        reactor.task_head = task
    else:
        reactor.task_tail.next = task
    reactor.task_tail = task


cdef inline uint64_t now_boot(Reactor *reactor) noexcept nogil:
    return reactor.io.boot_ns(&reactor.io)


cdef inline uint64_t now_raw(Reactor *reactor) noexcept nogil:
    return reactor.io.raw_ns(&reactor.io)
