# May this replica serve, now? Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Volume

cdef enum GateCause:
    CAUSE_FENCED = 1
    CAUSE_GRANT = 2
    CAUSE_COMMAND = 3
    CAUSE_SUPERSEDED = 4
    CAUSE_DISK = 5

# Reads both clocks: never trusts a time taken before completions were reaped.
cdef bint gate_is_open(Volume *volume) noexcept nogil
# Rights, membership or permission changed: open or close accordingly and set the fence timer.
cdef void gate_update(Volume *volume) noexcept nogil
# The control side allows it, from a moment of the boot clock on. False when it was closed for the rest of the term.
cdef bint gate_allow(Volume *volume, uint64_t not_before) noexcept nogil
# A new term was begun.
cdef void gate_begin(Volume *volume) noexcept nogil
# Close, take the permission away and give the grants back. On command it may be allowed again in its term, else never.
cdef void gate_close(Volume *volume, int cause) noexcept nogil
# Closed for the moment, and a grant may open it again in the same epoch?
cdef bint gate_may_return(Volume *volume) noexcept nogil
cdef void gate_init(Volume *volume) noexcept nogil
