# Chance, the plan of what will happen, clocks and completions. Thread: the room's.
from libc.stdint cimport int32_t, uint64_t

from sparrow._native.io.ops cimport Op
from sparrow._native.io.sim cimport Event, Host, Room_

# The next number of this room's generator below a bound, 0 for none; and an event so many parts per million likely.
cdef uint64_t below(Room_ *room, uint64_t bound) noexcept nogil
cdef bint chance(Room_ *room, uint64_t ppm) noexcept nogil

# Put an event into the plan; take the first of all out of it; put it in order after times were changed in place.
cdef void plan(Room_ *room, Event *event) noexcept nogil
cdef void take(Room_ *room, Event *event) noexcept nogil
cdef void replan(Room_ *room) noexcept nogil

# What a host's clocks show now, and the true time at which a timer for its boot clock fires.
cdef uint64_t boot_of(Host *host) noexcept nogil
cdef uint64_t raw_of(Host *host) noexcept nogil
cdef uint64_t wake_time(Host *host, uint64_t boot_ns) noexcept nogil

# The Op's answer is there: given out in the host's next turn.
cdef void complete(Host *host, Op *op, int32_t res) noexcept nogil
