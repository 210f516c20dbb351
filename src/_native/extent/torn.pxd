# Blocks of checksums that were being written when power was lost. Thread: reactor.
from sparrow._native.volume cimport Volume, Waiter

# Make them whole, before anybody asks for one: the log was walked, the volume is not open yet. The waiter hears of the
# end, with an errno when a block could not be written; `volume.completed` counts the blocks that were made whole.
cdef void torn_mend(Volume *volume, Waiter *waiter) noexcept nogil
cdef void torn_free(Volume *volume) noexcept nogil
