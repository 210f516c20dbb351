# May this replica serve, now? Thread: reactor.
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
# Close and take the permission away: only the control side opens it again.
cdef void gate_close(Volume *volume, int cause) noexcept nogil
# Closed for the moment, and a grant may open it again in the same epoch?
cdef bint gate_may_return(Volume *volume) noexcept nogil
cdef void gate_init(Volume *volume) noexcept nogil
