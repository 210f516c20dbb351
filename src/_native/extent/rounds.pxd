# When the flusher applies what a volume that writes little has logged.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Core

# Boot clock in nanoseconds; each call takes one of the core's turns.
cdef uint64_t round_time(Core *core, uint64_t now) noexcept nogil
