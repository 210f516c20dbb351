# The blocks of checksums of one round of the flusher: patched, listed, written. Thread: reactor.
from libc.stdint cimport uint32_t

from sparrow._native.layout cimport sp_sums_list
from sparrow._native.volume cimport Volume

# `done` hears of the end of each round's blocks: written, not yet flushed; or `flush.rc` says what failed, and `file`
# in which file (as in EVENT_DISK_FAILED).
ctypedef void (*seals_done)(Volume *volume, int file) noexcept nogil

cdef int seals_init(Volume *volume, seals_done done) noexcept nogil
cdef void seals_free(Volume *volume) noexcept nogil
# Write the blocks that the round in `volume.flush` touches. Its extents are durable.
cdef void seals_begin(Volume *volume) noexcept nogil
# The flusher's timer fired: a block is asked for again.
cdef void seals_go_on(Volume *volume) noexcept nogil
# The log was walked: it may hold what a process before this one has begun to apply.
cdef void seals_found(Volume *volume) noexcept nogil
# All that was written in place is flushed.
cdef void seals_synced(Volume *volume) noexcept nogil
# Whether these 4096 bytes are the list of this place.
cdef bint list_valid(const Volume *volume, const sp_sums_list *list, uint32_t place) noexcept nogil
