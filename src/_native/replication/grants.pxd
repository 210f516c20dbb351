# Grants between nodes: one exchange covers every volume of a node pair. Thread: reactor.
from libc.stdint cimport uint32_t

from sparrow._native.volume cimport Core, Volume

cdef void grants_open(Core *core) noexcept nogil
# Take a connected socket: to ask the node at the other end, or to answer it.
cdef int grant_link(Core *core, int fd, bint asks, uint32_t node_key) noexcept nogil
# Ask now instead of at the next quarter of a grant.
cdef void grants_hurry(Core *core) noexcept nogil
# Give back every right: the gate is closed for the term.
cdef void rights_release(Volume *volume) noexcept nogil
cdef void grants_close(Core *core) noexcept nogil
