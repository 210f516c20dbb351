# How much of what is applied the log keeps, and for whom. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Volume

# The LSN the tail may move to when all up to `applied` is in the extents; 0 when it stays.
cdef uint64_t keep_releasable(Volume *volume, uint64_t applied) noexcept nogil
# Move the tail there, in memory and in the superblock that is to be written; who read of it hears that it is gone.
cdef void keep_release(Volume *volume, uint64_t applied) noexcept nogil
