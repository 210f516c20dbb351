# Room in the pools. Thread: reactor.
from sparrow._native.volume cimport BlockReq, Volume

cdef enum RoomVerdict:
    ROOM_YES = 0
    ROOM_NO = 1            # a page of the write has no place yet and there is no room for it
    ROOM_WAIT = 2          # a sums block is awaited; the waiter of the request is woken

# The control side told the room of this pool, or the flusher met its end: tell when it turned over.
cdef void room_update(Volume *volume) noexcept nogil
# May this WRITE be taken? Below the reserve only pages that have a place already.
cdef RoomVerdict room_for(BlockReq *req) noexcept nogil
