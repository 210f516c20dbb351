# Virtual connections. Thread: the room's.
from libc.stdint cimport uint32_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.io.sim cimport Host, Room_, Socket

cdef void net_fill(Io *io) noexcept nogil
cdef Socket *socket_of(Room_ *room, int fd) noexcept nogil
cdef void net_close(Room_ *room, uint32_t index) noexcept nogil
cdef void net_cancel(Host *host, Op *op) noexcept nogil
cdef void net_look(Room_ *room, uint32_t index) noexcept nogil
cdef void net_flow(Room_ *room, uint32_t source, uint32_t target) noexcept nogil
cdef void net_die(Room_ *room, uint32_t host, bint silently) noexcept nogil
cdef void net_stall(Room_ *room, int fd, bint stalled) noexcept nogil
cdef void net_time_out(Room_ *room, uint32_t source, uint32_t target) noexcept nogil
