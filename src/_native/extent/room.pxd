# Room in the pools. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.volume cimport BlockReq, Volume

cdef enum:
    RESERVE_PAGES = 8192   # as many as a volume may have unapplied: 32 MiB

cdef enum RoomVerdict:
    ROOM_YES = 0
    ROOM_NO = 1            # a page of the write has no place yet and there is no room for it
    ROOM_WAIT = 2          # a sums block is awaited; the waiter of the request is woken

# The control side told the room of this pool, or the flusher met its end: tell when it turned over.
cdef void room_update(Volume *volume) noexcept nogil
# So many pages were logged; each may need a place until the control side counts again.
cdef void room_take(Volume *volume, uint32_t pages) noexcept nogil
# Has every linked peer of those of which one is enough room for fewer pages than these?
cdef bint all_short(const Volume *volume, uint64_t pages) noexcept nogil
# May this WRITE be taken? Below the reserve only pages that have a place already.
cdef RoomVerdict room_for(BlockReq *req) noexcept nogil
