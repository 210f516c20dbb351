# When the flusher applies what a volume that writes little has logged.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Core, Volume

# Boot clock in nanoseconds; each call takes one of the core's turns.
cdef uint64_t round_time(Core *core, uint64_t now) noexcept nogil
# So much is unapplied that turns do not count.
cdef bint round_crowded(Core *core) noexcept nogil
# A round began before its turn came.
cdef void round_returned(Core *core) noexcept nogil
# Of the volumes that wait for a turn the one with most versions, if it has more than the asking one; else NULL.
cdef Volume *round_largest(Core *core, Volume *asking) noexcept nogil
