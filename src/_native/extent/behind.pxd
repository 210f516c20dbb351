# What a replica that catches up may leave unapplied until it has all that was committed. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.volume cimport Core, Volume

# So many versions of a volume begin a round of the flusher; `usual` when it does not catch up.
cdef uint32_t behind_round(const Volume *volume, uint32_t usual) noexcept nogil
# Room for so many more versions in a batch that was received, whether or not it catches up?
cdef bint behind_room(Core *core, Volume *volume, uint32_t count) noexcept nogil
# They were taken.
cdef void behind_taken(Volume *volume, uint32_t count) noexcept nogil
# Room for so many more versions that lie in the log? Then they are counted.
cdef bint behind_found(Core *core, Volume *volume, uint32_t count) noexcept nogil
# So many versions left the map, the oldest first.
cdef void behind_gone(Volume *volume, uint32_t count) noexcept nogil
# The last entry of a round that is asked to go to `target`, at the end of a batch: a round has a list of bounded
# length.
cdef uint64_t behind_target(Volume *volume, uint64_t target) noexcept nogil
