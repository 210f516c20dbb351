# Commands that reach further than one request of the volume: UNMAP, WRITE SAME, VERIFY. Thread: reactor.
from sparrow._native.front.iscsi.session cimport Slot

# All of the command's data is here. Answers it, or gives its first step to the volume.
cdef void bulk_begin(Slot *slot) noexcept nogil
# A step is done without an error: the next one, or the answer.
cdef void bulk_next(Slot *slot) noexcept nogil
# A step that read is done: is what it read what VERIFY was given? If not the command is answered.
cdef bint bulk_compared(Slot *slot) noexcept nogil
cdef bint bulk_is(const Slot *slot) noexcept nogil
