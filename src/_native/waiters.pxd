# Lists of those who wait for a moment; each is woken exactly once. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Waiter


cdef inline void waiter_add(Waiter **where, Waiter *waiter) noexcept nogil:
    waiter.next = where[0]
    where[0] = waiter


cdef inline void wake_all(Waiter **where, int rc) noexcept nogil:
    cdef Waiter *waiter = where[0]
    cdef Waiter *next_one
    where[0] = NULL
    while waiter != NULL:
        next_one = waiter.next
        waiter.wake(waiter, rc)
        waiter = next_one


cdef inline void wake_reached(Waiter **where, uint64_t value) noexcept nogil:
    """Wake those whose `arg` is at or below the value."""
    cdef Waiter *waiter = where[0]
    cdef Waiter *next_one
    cdef Waiter *due = NULL
    where[0] = NULL
    while waiter != NULL:
        next_one = waiter.next
        if waiter.arg <= value:
            waiter.next = due
            due = waiter
        else:
            waiter.next = where[0]
            where[0] = waiter
        waiter = next_one
    while due != NULL:
        next_one = due.next
        due.wake(due, 0)
        due = next_one
