# What a stopped core still holds. Thread: control, after the reactor's thread has ended.
from libc.stdint cimport int64_t

from sparrow._native.volume cimport Core


# Everything that is taken from a fixed pool, or counted in and out. All zero after a clean stop; below zero: put back
# twice.
cdef struct Census:
    int64_t volumes       # with them their links, requests and commands
    int64_t sessions
    int64_t grant_links
    int64_t batches
    int64_t versions
    int64_t frames
    int64_t read_runs
    int64_t pages
    int64_t timers
    int64_t tasks


cdef void census_take(Core *core, Census *census) noexcept nogil
