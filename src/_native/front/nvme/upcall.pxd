# Commands of a queue that Python answers: those of reservations. Thread: reactor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.front.nvme.queue cimport Queue, Slot
from sparrow._native.layout cimport sp_nvme_sqe

cdef bint upcall_is(uint32_t opcode) noexcept nogil
# Bytes that come with it at least; for Report, that are asked for.
cdef uint64_t upcall_bytes(const sp_nvme_sqe *sqe) noexcept nogil
# All of it is here: hand it up, while this replica serves.
cdef void upcall_begin(Slot *slot) noexcept nogil
# Python's answer. Everything is copied; a tag that is gone is ignored.
cdef void queue_answer(
    Queue *queue, uint32_t tag, uint32_t status, const uint8_t *data, uint32_t length
) noexcept nogil
