# The base lane of a rebuild, primary's side: granules read through the committed view. Thread: reactor.
from sparrow._native.volume cimport Ship

# Tell the follower where its log is to begin; False when that cannot be done now.
cdef bint base_announce(Ship *ship) noexcept nogil
# May another batch go on the live lane before the next base frame does?
cdef bint live_may_go(Ship *ship) noexcept nogil
# Add what was read to the send, and read on; BASE_DONE when there is nothing left to read.
cdef void base_go_on(Ship *ship) noexcept nogil
# The link is over: give back what was read.
cdef void base_release(Ship *ship) noexcept nogil
