# The receive side of a connection: bytes to requests. Thread: reactor.
from sparrow._native.front.nbd.link cimport Link

# Take apart what is staged, then read on. Also after a stall.
cdef void recv_pump(Link *link) noexcept nogil
