# The send side of a connection. Thread: reactor.
from sparrow._native.front.nbd.link cimport Link, Request

# A request has something to say: once however often it is asked for.
cdef void send_queue(Request *request) noexcept nogil
# Build what is queued into one send, if none is under way.
cdef void send_pump(Link *link) noexcept nogil
# The send that was under way is complete: free what it carried.
cdef void send_done(Link *link) noexcept nogil
