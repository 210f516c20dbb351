"""Head-room: a full pool refuses what needs new space, before anything acknowledged could be left without a place.

Every replica reports the pages its pool can still take; acks carry it to the primary. Below the reserve of any replica
needed, or of every one where one of them is enough, writes to pages without a place are refused and overwrites go on:
in-sync replicas hold the same pages, so the own page states tell for all. The reserve covers what is logged and not yet
applied.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.events cimport EVENT_POOL_FULL, event_up
from sparrow._native.extent.dirty cimport dirty_find
from sparrow._native.extent.sums cimport FRAME_PAGES, frame_get, frame_put, frame_state
from sparrow._native.layout cimport SP_PAGE_DATA
from sparrow._native.volume cimport PEERS_MAX, BlockReq, Core, Frame, Peer, Version, Volume

cdef uint64_t FOREVER = <uint64_t>-1


cdef void room_update(Volume *volume) noexcept nogil:
    cdef bint full = volume.pool_full
    if volume.headroom < RESERVE_PAGES or (
        # Some distance between full and not full, else every file created next door would be an event.
        volume.room_told and volume.headroom < RESERVE_PAGES + RESERVE_PAGES // 4
    ):
        full = True
    if full != volume.room_told:
        volume.room_told = full
        event_up(volume, EVENT_POOL_FULL, 1 if full else 0, 0, 0, 0)


cdef void room_take(Volume *volume, uint32_t pages) noexcept nogil:
    """Room is counted once a second, a burst fills a pool in less: what was logged since is taken off at once."""
    volume.headroom -= min(volume.headroom, <uint64_t>pages)
    if volume.headroom < RESERVE_PAGES:
        room_update(volume)


cdef bint all_short(const Volume *volume, uint64_t pages) noexcept nogil:
    cdef bint some = False
    cdef bint roomy = False
    cdef const Peer *peer
    cdef int i
    for i in range(PEERS_MAX):
        peer = volume.peers[i]
        if peer != NULL and peer.ship != NULL and peer.one_of:
            some = True
            roomy |= peer.headroom >= pages
    return some and not roomy


cdef bint short_of_room(Volume *volume) noexcept nogil:
    cdef int i
    if volume.pool_full or volume.room_told:
        return True
    for i in range(PEERS_MAX):
        if (
            volume.peers[i] != NULL
            and volume.peers[i].needed
            and volume.peers[i].ship != NULL
            and volume.peers[i].headroom < RESERVE_PAGES
        ):
            return True
    return all_short(volume, RESERVE_PAGES)


cdef RoomVerdict room_for(BlockReq *req) noexcept nogil:
    cdef Volume *volume = req.volume
    cdef Core *core = <Core *>volume.reactor.core
    cdef Frame *frame = NULL
    cdef RoomVerdict verdict = ROOM_YES
    cdef uint64_t page
    cdef Version *version
    cdef uint32_t i
    if not short_of_room(volume):
        return ROOM_YES
    for i in range(req.page_count):
        page = req.first_page + i
        version = dirty_find(core, volume, page, FOREVER)
        if version != NULL and version.data != NULL:
            continue
        if version != NULL:
            # Zeros: its place is given back.
            verdict = ROOM_NO
            break
        if frame == NULL or frame.block != page // FRAME_PAGES:
            if frame != NULL:
                frame_put(frame)
            req.bad_page = page
            frame = frame_get(core, volume, page, &req.waiter)
            if frame == NULL:
                return ROOM_WAIT
        if frame_state(frame, page) != SP_PAGE_DATA:
            verdict = ROOM_NO
            break
    if frame != NULL:
        frame_put(frame)
    return verdict
