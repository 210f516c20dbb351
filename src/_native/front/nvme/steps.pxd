# Commands that reach further than one request of the volume: Dataset Management, Write Zeroes, Verify. Thread: reactor.
from sparrow._native.front.nvme.queue cimport Slot

# All of the command's data is here. Answers it, or gives its first step to the volume.
cdef void steps_begin(Slot *slot) noexcept nogil
# A step is done without an error: the next one, or the answer.
cdef void steps_next(Slot *slot) noexcept nogil
cdef bint steps_is(const Slot *slot) noexcept nogil
