# The receive side of a queue: bytes to PDUs. Thread: reactor.
from sparrow._native.front.nvme.queue cimport Queue

# Take apart what is staged, then read on unless the queue is stalled or over.
cdef void recv_pump(Queue *queue) noexcept nogil
