# The receive side of a session: bytes to PDUs. Thread: reactor.
from sparrow._native.front.iscsi.session cimport Session

# Take apart what is staged, then read on. Also after a stall.
cdef void recv_pump(Session *session) noexcept nogil
