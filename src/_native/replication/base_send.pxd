# The base lane of a rebuild, primary's side: granules read through the committed view. Thread: reactor.
from sparrow._native.volume cimport BasePlan, Ship

# Make a link a rebuild. -ENOENT: what the follower may miss is not known here (any more).
cdef int base_begin(Ship *ship, const BasePlan *plan) noexcept nogil
# Tell the follower where its log is to begin or that it goes on; False when that cannot be done now.
cdef bint base_announce(Ship *ship) noexcept nogil
# May another batch go on the live lane before the next base frame does?
cdef bint live_may_go(Ship *ship) noexcept nogil
# Add what was read to the send, and read on; BASE_DONE when there is nothing left to read.
cdef void base_go_on(Ship *ship) noexcept nogil
# The link is over: no granule is awaited any more.
cdef void base_stop(Ship *ship) noexcept nogil
# The kernel holds nothing of it any more: give back what was read, and the map.
cdef void base_end(Ship *ship) noexcept nogil
