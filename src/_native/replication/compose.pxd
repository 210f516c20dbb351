# One send of a ship link, put together: frame heads, batches from memory, pool pages. Thread: reactor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.volume cimport MemBatch, Ship

cdef enum:
    SEND_BYTES = 1048576
    SEND_PAGES = 640           # batches from the log, 4 granules with their heads, marks, the start of a session
    SEND_LOG_PAGES = 320       # of them, of batches that were read
    SEND_HEADS = 60

cdef void add_iov(Ship *ship, void *data, uint32_t size) noexcept nogil
# The head of a frame, with the commit LSN of this moment.
cdef void add_head(Ship *ship, uint32_t kind, uint32_t body_bytes, uint64_t as_of) noexcept nogil
# A pool page, whose reference goes to this send.
cdef void add_page(Ship *ship, uint8_t *page) noexcept nogil
# A whole BATCH frame from memory, held until it is sent; gives its bytes.
cdef uint32_t add_batch(Ship *ship, MemBatch *batch) noexcept nogil
# Everything was sent, or the link is over: give back what the send held.
cdef void release_sent(Ship *ship) noexcept nogil
