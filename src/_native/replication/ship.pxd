# Primary's side of a peer. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.volume cimport BasePlan, Peer, Volume

cdef enum LostCause:
    LOST_CLOSED = 1
    LOST_PROTOCOL = 2
    LOST_RECYCLED = 3
    LOST_DROPPED = 4
    LOST_IO = 5
    LOST_SILENT = 6        # the peer has no such link any more, or says nothing

cdef enum:
    WORST_NS = 500000000   # how long the slowest ack is remembered, at least

# Feed a peer over a connected socket; takes the descriptor. `plan` NULL: from the joined LSN on; else a rebuild.
# -ENOENT: the log does not reach back that far, or what the peer misses is not known here; else as `peer_for`.
cdef int ship_start(
    Volume *volume, uint64_t slot, uint32_t node_key, int fd, uint64_t joined_lsn, const BasePlan *plan
) noexcept nogil
cdef void ship_drop(Peer *peer, int cause) noexcept nogil
cdef void ship_drop_all(Volume *volume) noexcept nogil
cdef void peers_free(Volume *volume) noexcept nogil
