# Task management: abort what has no LSN, wait for what has one, then answer. Thread: reactor.
from sparrow._native.front.client cimport ClientHooks
from sparrow._native.front.iscsi.session cimport Session, Slot

# Can the core carry out the function of this request? Otherwise it is Python's to answer.
cdef bint manage_knows(const Slot *slot) noexcept nogil
# The nexus of a session was preempted, and what it has under way is to be aborted.
cdef void manage_preempted(Session *session) noexcept nogil
cdef void manage_begin(Slot *slot) noexcept nogil
# A request ended: answer those who waited for it.
cdef void manage_check(ClientHooks *hooks) noexcept nogil
