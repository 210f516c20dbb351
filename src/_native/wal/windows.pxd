# Memory that walks over logs read into. Thread: reactor.
from libc.stdint cimport uint8_t

from sparrow._native.volume cimport Core

cdef enum:
    WALK_BYTES = 4194304          # read at once; holds several of the largest batches

# WALK_BYTES, page-aligned, with whatever was in it before; NULL when there is no memory.
cdef uint8_t *window_take(Core *core) noexcept nogil
# Give it back; no read into it is under way.
cdef void window_drop(Core *core, uint8_t *window) noexcept nogil
# Called several times a second: without a walk since the last time nothing is kept.
cdef void windows_rest(Core *core) noexcept nogil
# Let go of all that are kept.
cdef void windows_free(Core *core) noexcept nogil
