# The base lane of a rebuild, follower's side. Thread: reactor.
from libc.stdint cimport int32_t

from sparrow._native.io.ops cimport Op
from sparrow._native.volume cimport Follow

# Take the frame whose body is whole. 0: done, or under way: beside others when its body was taken over (base_install,
# base_mark), alone while `base_busy` (the link's task goes on when it is done, with base_over). What fails later is in
# base_rc. -EAGAIN: not now; -EPROTO, -EBADMSG: it does not belong here, it is damaged.
cdef int base_table(Follow *follow) noexcept nogil
cdef int base_start(Follow *follow) noexcept nogil
cdef int base_install(Follow *follow) noexcept nogil
cdef int base_mark(Follow *follow) noexcept nogil
cdef int base_done(Follow *follow) noexcept nogil
# Something became durable: is the rebuild complete?
cdef void base_look(Follow *follow) noexcept nogil
# The kernel has begun to write back what it was told to.
cdef void on_behind(Op *op, int32_t res) noexcept nogil
