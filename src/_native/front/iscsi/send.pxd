# The send side of a session: a queue of slots, and one vectored send at a time built from its front. Thread: reactor.
from libc.stdint cimport int32_t, uint32_t

from sparrow._native.front.iscsi.session cimport Session, Slot

# Put a slot in the queue for what `out` (SlotOut) says; one that is in it already keeps its place.
cdef void send_queue(Slot *slot, uint32_t out) noexcept nogil
# Take a slot out of the queue. Not for one whose Data-In has begun.
cdef void send_remove(Slot *slot) noexcept nogil
# Answer a SCSI command: GOOD with what data_at and data_end say, another status, or CHECK CONDITION with this sense.
cdef void send_status(Slot *slot, uint32_t status) noexcept nogil
cdef void send_sense(Slot *slot, uint32_t sense, int32_t field, int32_t bit) noexcept nogil
# Build and submit the next send unless one is under way. Called from the session's task.
cdef void send_pump(Session *session) noexcept nogil
# The send that was under way is complete: free its slots, and end after a logout.
cdef void send_done(Session *session) noexcept nogil
