# Moves committed pages from the log into the extents, round by round. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Volume, Waiter

cdef int flush_init(Volume *volume) noexcept nogil
cdef void flush_end(Volume *volume) noexcept nogil
# Somebody needs room in the log, the dirty map or the pool now.
cdef void flush_urge(Volume *volume) noexcept nogil
# Woken when everything up to `waiter.arg` is applied and the superblock says so.
cdef void flush_to(Volume *volume, Waiter *waiter) noexcept nogil
cdef bint flush_idle(Volume *volume) noexcept nogil
# What a round waited for is there: begin one now.
cdef void flush_again(Volume *volume) noexcept nogil
# What may be applied now: committed, durable here, and not newer than the base of a rebuild.
cdef uint64_t flush_target(Volume *volume) noexcept nogil
