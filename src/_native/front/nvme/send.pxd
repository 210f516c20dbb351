# The send side of a queue: slots in the order their answers are known, and one vectored send at a time built from its
# front. Thread: reactor.
from libc.stdint cimport uint32_t

from sparrow._native.front.nvme.queue cimport Queue, Slot

# Put a slot in the send queue for what `out` (SlotOut) says; one that is in it already keeps its place.
cdef void send_queue(Slot *slot, uint32_t out) noexcept nogil
# Answer a command: 0 with what read_bytes says, or another status.
cdef void send_status(Slot *slot, uint32_t status) noexcept nogil
# Build and submit the next send unless one is under way. Called from the queue's task.
cdef void send_pump(Queue *queue) noexcept nogil
# The send that was under way is complete: free its slots.
cdef void send_done(Queue *queue) noexcept nogil
