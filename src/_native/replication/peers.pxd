# Where the peers of a volume are. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.volume cimport Peer, Volume

# The peer of a slot, NULL when it has no place here.
cdef Peer *peer_at(Volume *volume, uint64_t slot) noexcept nogil
# The same, given a place when it has none: 0; -EAGAIN while something refers to the peer in each, -ENOMEM, -EINVAL for
# a slot that cannot be.
cdef int peer_for(Volume *volume, uint64_t slot, Peer **found) noexcept nogil
# From now on the first `needed` of these slots are needed, of the others one is, and nobody else; each has a place
# afterwards. Errors as above, -EINVAL for too many; then nothing has changed.
cdef int peers_name(Volume *volume, const uint32_t *slots, uint64_t count, uint64_t needed) noexcept nogil
