# The base lane of a rebuild, follower's side. Thread: reactor.
from sparrow._native.volume cimport Follow

# Take the frame whose body is whole. 0: done, or under way while `base_busy` (the link's task goes on when it is done,
# with base_over or base_rc); -EAGAIN: not now; -EPROTO, -EBADMSG: it does not belong here, it is damaged.
cdef int base_table(Follow *follow) noexcept nogil
cdef int base_start(Follow *follow) noexcept nogil
cdef int base_install(Follow *follow) noexcept nogil
cdef int base_mark(Follow *follow) noexcept nogil
cdef int base_done(Follow *follow) noexcept nogil
# Something became durable: is the rebuild complete?
cdef void base_look(Follow *follow) noexcept nogil
