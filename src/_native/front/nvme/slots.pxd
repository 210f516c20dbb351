# Commands of one queue: taken, found, freed; their pages. Thread: reactor.
from libc.stdint cimport uint16_t, uint32_t

from sparrow._native.front.nvme.queue cimport Queue, Slot

# A free slot for a command with this identifier, or NULL when as many are under way as the queue has entries.
cdef Slot *slot_take(Queue *queue, uint16_t cid) noexcept nogil
# Back to the free ones with everything it holds. Must not be in the send queue nor with the volume.
cdef void slot_free(Slot *slot) noexcept nogil
# Its completion is on its way: the host may use the identifier and the entry again.
cdef void slot_retire(Slot *slot) noexcept nogil
cdef bint slot_known(const Queue *queue, uint16_t cid) noexcept nogil
# The slot of a transfer tag, or NULL when that use of it is over.
cdef Slot *slot_of(Queue *queue, uint32_t tag) noexcept nogil
# Pages for data of the host; False, and none, when the pool has not that many above its reserve.
cdef bint slot_pages(Slot *slot, uint32_t length) noexcept nogil
cdef void slot_drop_pages(Slot *slot) noexcept nogil
cdef void slot_drop_read(Slot *slot) noexcept nogil
