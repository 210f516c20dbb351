# How fast base lanes may copy: a cap, and less while clients wait longer than usual. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Core

# A client's write was answered.
cdef void pace_note(Core *core, uint64_t now, uint64_t took_ns) noexcept nogil
# A base lane began (1) or ended (-1).
cdef void pace_lane(Core *core, uint64_t now, int change) noexcept nogil
# The moment of the boot clock from which the next granule may be read; 0: now.
cdef uint64_t pace_next(Core *core, uint64_t now) noexcept nogil
# Is there a bound at all?
cdef bint pace_bound(Core *core) noexcept nogil
# So many bytes were put on a base lane.
cdef void pace_spend(Core *core, uint64_t now, uint64_t bytes) noexcept nogil
