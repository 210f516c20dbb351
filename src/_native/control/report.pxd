# Facts about a volume as arrays of u64, taken apart in sparrow.dataplane.decode. Thread: reactor.
from libc.stdint cimport uint8_t, uint64_t

from sparrow._native.volume cimport Core, Volume

cdef enum:
    SUMMARY_FIXED = 10
    STATUS_FIXED = 13
    PEER_WORDS = 13
    ABSENCE_WORDS = 4
    FENCE_WORDS = 4

# malloc'ed; NULL without memory. `length` in bytes.
cdef uint8_t *report_summary(Volume *volume, uint64_t *length) noexcept nogil
cdef uint8_t *report_fence(Volume *volume, uint64_t *length) noexcept nogil
cdef uint8_t *report_status(Volume *volume, uint64_t *length) noexcept nogil
cdef uint8_t *report_statuses(Core *core, uint64_t taken, uint64_t *length) noexcept nogil
