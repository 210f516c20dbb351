# Commands of the host, from the capsule to the request of the volume and back. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.front.nvme.queue cimport Queue, Slot

cdef enum PduVerdict:
    PDU_TAKE = 0               # its data, if any, goes to queue.sink
    PDU_STALL = 1              # there are no pages for it now: look at it again later
    PDU_WRONG = 2              # the connection ends

# A header is complete in queue.head, so many bytes of data follow it.
cdef PduVerdict capsule_begin(Queue *queue, uint32_t data_bytes) noexcept nogil
cdef PduVerdict data_begin(Queue *queue, uint32_t data_bytes) noexcept nogil
# All data of the PDU was taken.
cdef void pdu_end(Queue *queue) noexcept nogil
# Fill a request that is about to be given to the volume; counts it.
cdef void request_fill(Slot *slot, uint32_t kind, uint64_t first_page, uint32_t page_count) noexcept nogil
# Hand the pages of the host's data to the request: a Write of all of them.
cdef void request_take_pages(Slot *slot, uint32_t base, uint32_t length) noexcept nogil
