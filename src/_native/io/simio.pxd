# Chance, the plan of what will happen, and completions. Thread: the room's.
from libc.stdint cimport int32_t, uint64_t

from sparrow._native.io.ops cimport Op
from sparrow._native.io.sim cimport Event, Host, Room_

cdef uint64_t draw(Room_ *room) noexcept nogil
cdef uint64_t below(Room_ *room, uint64_t bound) noexcept nogil
cdef bint chance(Room_ *room, uint64_t ppm) noexcept nogil
cdef void plan(Room_ *room, Event *event) noexcept nogil
# The Op's answer is there: given out in the host's next turn.
cdef void complete(Host *host, Op *op, int32_t res) noexcept nogil
# Something that must never happen did: the first of it is kept.
cdef void report(Host *host, const char *bug) noexcept nogil
