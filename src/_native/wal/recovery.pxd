# The walk over the ring at open. Thread: reactor.
from sparrow._native.volume cimport Volume, Waiter

# Walk from the superblock's tail; index every batch, put unapplied pages into the dirty map, find the end. The waiter
# is woken with 0 (volume.torn_after and damaged_after say how it ended) or -errno.
cdef void recover(Volume *volume, Waiter *waiter) noexcept nogil
# Give back what the walk reads into.
cdef void recover_free(Volume *volume) noexcept nogil
