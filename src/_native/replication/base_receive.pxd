# The base lane of a rebuild, follower's side: begin and end of a session. Thread: reactor.
from sparrow._native.volume cimport Follow

# Take the frame whose body is whole, here and in base_install and base_marks. 0: done, or under way: beside others when
# its body was taken over (base_install, base_mark), alone while `base_busy` (the link's task goes on when it is done,
# with base_over). What fails later is in base_rc. -EAGAIN: not now; -EPROTO, -EBADMSG: it does not belong here, it is
# damaged.
cdef int base_table(Follow *follow) noexcept nogil
cdef int base_start(Follow *follow) noexcept nogil
cdef int base_done(Follow *follow) noexcept nogil
# Something became durable: is the rebuild complete?
cdef void base_look(Follow *follow) noexcept nogil
# Something failed that the copy cannot go on without.
cdef void base_spoil(Follow *follow, int rc) noexcept nogil
