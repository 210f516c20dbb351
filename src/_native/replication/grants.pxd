# Grants between nodes: one exchange covers every volume of a node pair. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.volume cimport Core, Volume

cdef void grants_open(Core *core) noexcept nogil
# Take a connected socket: to ask the node at the other end, or to answer it.
cdef int grant_link(Core *core, int fd, bint asks, uint32_t node_key) noexcept nogil
# Ask now instead of at the next quarter of a grant.
cdef void grants_hurry(Core *core) noexcept nogil
# Stop granting the promised term, and remember how long the promise already given still runs.
cdef void grant_stop(Volume *volume) noexcept nogil
# Somebody else is primary and holds a grant of this replica now: that path is the one to use.
cdef bint promise_stands(const Volume *volume) noexcept nogil
# Nanoseconds that a promise given in an older term still runs here, hold-off included.
cdef uint64_t promise_left(Volume *volume) noexcept nogil
# The same without the promise to `prior`, the newest of those terms.
cdef uint64_t older_left(Volume *volume) noexcept nogil
# Give back every right: the gate is closed for the term.
cdef void rights_release(Volume *volume) noexcept nogil
cdef void grants_close(Core *core) noexcept nogil
