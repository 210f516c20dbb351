# How much of what is applied the log keeps, and for whom. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Volume

# Would a superblock that is written now, with nothing to apply, give back place in the ring?
cdef bint keep_gives(Volume *volume) noexcept nogil
# Move the tail there, in memory and in the superblock that is to be written; who read of it hears that it is gone.
cdef void keep_release(Volume *volume, uint64_t applied) noexcept nogil
