# The commit LSN of a volume. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Volume

cdef void commit_init(Volume *volume) noexcept nogil
# Follower: the primary says so much is committed.
cdef void commit_hear(Volume *volume, uint64_t lsn) noexcept nogil
