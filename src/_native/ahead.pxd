# A walk over all volumes, a few times a second, finds none of them in any cache when they are idle: waiting for memory
# is most of what it costs. So what it will look at is fetched while it is at volumes before, in three steps, because
# each leads to the next: the volume, its peers and the link it follows, its links to peers. Thread: reactor.
from libc.stdint cimport uint32_t

from sparrow._native.volume cimport PEERS_MAX, Core, Volume

# Of the compiler: have the cache line at an address, which may be any, on its way; or no nearer than the second level,
# for what is much.
cdef extern from * nogil:
    """
    #define SP_PREFETCH_MUCH(at) __builtin_prefetch((at), 0, 2)
    """
    void sp_prefetch "__builtin_prefetch"(const void *at)
    void sp_prefetch_much "SP_PREFETCH_MUCH"(const void *at)

cdef enum:
    AHEAD = 6                  # volumes between the first step and the look


cdef inline Volume *volume_in(Core *core, uint32_t index) noexcept nogil:
    return core.volumes[index] if index < core.volume_room else NULL


cdef inline void ahead_volume(const Volume *volume) noexcept nogil:
    """What an exchange of grants looks at: who it is, what it promised, its term, its gate, whom it is linked with."""
    if volume == NULL:
        return
    sp_prefetch(&volume.key)
    sp_prefetch(&volume.opened)
    sp_prefetch(&volume.super.now.promised_epoch)
    sp_prefetch(&volume.gate)
    sp_prefetch(&volume.gate.timer)
    sp_prefetch(&volume.primary)
    sp_prefetch(&volume.release_stamp)
    sp_prefetch(&volume.peers[0])
    sp_prefetch(&volume.heard_ns)


cdef inline void ahead_peers(const Volume *volume) noexcept nogil:
    cdef uint32_t k
    if volume == NULL:
        return
    sp_prefetch(volume.follow)
    for k in range(PEERS_MAX):
        if volume.peers[k] != NULL:
            sp_prefetch(volume.peers[k])
            sp_prefetch(&volume.peers[k].right_boot)


cdef inline void ahead_links(const Volume *volume) noexcept nogil:
    cdef uint32_t k
    if volume == NULL:
        return
    for k in range(PEERS_MAX):
        if volume.peers[k] != NULL:
            sp_prefetch(volume.peers[k].ship)


cdef inline void ahead_of(Core *core, uint32_t index) noexcept nogil:
    """For a walk by index that is at `index`."""
    ahead_volume(volume_in(core, index + AHEAD))
    ahead_peers(volume_in(core, index + AHEAD // 2))
    ahead_links(volume_in(core, index + AHEAD // 3))
