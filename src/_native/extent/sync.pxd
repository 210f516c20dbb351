# Flushes of the extents and of the sums: one of each file at a time, shared by all who wait. Thread: reactor.
from sparrow._native.volume cimport Sync, Volume, Waiter

cdef void sync_init(Sync *sync, Volume *volume, int fd) noexcept nogil
# Wake when a flush of the file has ended that was submitted after this call; at once when one has failed ever. rc 0, or
# the error of a flush: then nobody knows what of the file is on the disk, and the caller condemns the replica.
cdef void sync_file(Sync *sync, Waiter *waiter) noexcept nogil
