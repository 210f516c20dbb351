# The superblock's truth is in memory (volume.super.now); a write makes it durable on both copies, one at a time.
from sparrow._native.volume cimport Volume, Waiter

# Make the present content durable; the waiter (may be NULL) is woken with 0 or -errno when both copies hold it.
cdef void super_write(Volume *volume, Waiter *waiter) noexcept nogil
# The same, woken when the first of them does: for what no promise is made of (superblock.pyx).
cdef void super_write_first(Volume *volume, Waiter *waiter) noexcept nogil
