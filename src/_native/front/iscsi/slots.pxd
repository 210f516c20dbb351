# Requests of one session: taken, found, freed; their pages; their numbers. Thread: reactor.
from libc.stdint cimport uint32_t

from sparrow._native.front.iscsi.session cimport Session, Slot

# A free slot for the PDU in session.head, or NULL; a windowed one moves ExpCmdSN.
cdef Slot *slot_take(Session *session) noexcept nogil
# Back to the free ones with everything it holds. Must not be in the send queue nor with the volume.
cdef void slot_free(Slot *slot) noexcept nogil
# The final answer is on its way: the initiator may use its tag and its place in the window again.
cdef void slot_retire(Slot *slot) noexcept nogil
# The slot that waits for an answer under this tag of the initiator, or NULL.
cdef Slot *slot_find(Session *session, uint32_t itt) noexcept nogil
# The slot of a tag made by slot_tag, or NULL when that use of it is over.
cdef Slot *slot_of(Session *session, uint32_t tag) noexcept nogil
# Pages for `length` bytes; False, and none, when the pool has not that many. `spare` keeps the pool's reserve.
cdef bint slot_pages(Slot *slot, uint32_t length, bint spare) noexcept nogil
cdef void slot_drop_pages(Slot *slot) noexcept nogil
