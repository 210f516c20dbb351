"""The dirty map: hash by volume and page to the newest version, chains to older ones, a list per volume in LSN order.

A zero entry is no version per page but one span per entry, in a short array per volume: discarding a whole disk costs
no more memory than discarding a page.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.extent.behind cimport behind_gone
from sparrow._native.pool cimport page_drop
from sparrow._native.sys cimport ENOMEM, calloc, free, malloc, memmove, memset, sp_assert
from sparrow._native.volume cimport NONE, SPANS_MAX, Core, Span, Version, Volume


cdef int dirty_open(Core *core, uint32_t room) noexcept nogil:
    cdef uint32_t buckets = 1024
    while buckets < room:
        buckets *= 2
    core.dirty.versions = <Version *>calloc(room, sizeof(Version))
    core.dirty.buckets = <uint32_t *>malloc(buckets * sizeof(uint32_t))
    if core.dirty.versions == NULL or core.dirty.buckets == NULL:
        dirty_close(core)
        return -ENOMEM
    memset(core.dirty.buckets, 0xFF, buckets * sizeof(uint32_t))
    core.dirty.mask = buckets - 1
    core.dirty.room = room
    core.dirty.fresh = 0
    core.dirty.used = 0
    core.dirty.free_head = NONE
    return 0


cdef void dirty_close(Core *core) noexcept nogil:
    free(core.dirty.versions)
    free(core.dirty.buckets)
    memset(&core.dirty, 0, sizeof(core.dirty))


cdef inline uint32_t bucket_of(Core *core, Volume *volume, uint64_t page) noexcept nogil:
    cdef uint64_t h = (page ^ (<uint64_t>volume.index << 44)) * <uint64_t>0x9E3779B97F4A7C15
    return <uint32_t>(h >> 32) & core.dirty.mask


cdef bint dirty_room(Core *core, Volume *volume, uint32_t count) noexcept nogil:
    return (
        core.dirty.used + count <= core.dirty.room
        and volume.version_count + count <= core.versions_per_volume + volume.behind_count
    )


cdef inline uint32_t newest(Core *core, Volume *volume, uint64_t page) noexcept nogil:
    cdef uint32_t at = core.dirty.buckets[bucket_of(core, volume, page)]
    while at != NONE:
        if core.dirty.versions[at].page == page and core.dirty.versions[at].volume == volume:
            return at
        at = core.dirty.versions[at].bucket_next
    return NONE


cdef void unlink_bucket(Core *core, uint32_t at) noexcept nogil:
    cdef Version *versions = core.dirty.versions
    cdef uint32_t *link = &core.dirty.buckets[bucket_of(core, versions[at].volume, versions[at].page)]
    while link[0] != at:
        sp_assert(link[0] != NONE, b"a newest version is in its bucket")
        link = &versions[link[0]].bucket_next
    link[0] = versions[at].bucket_next


cdef void link_bucket(Core *core, uint32_t at) noexcept nogil:
    cdef Version *versions = core.dirty.versions
    cdef uint32_t *head = &core.dirty.buckets[bucket_of(core, versions[at].volume, versions[at].page)]
    versions[at].bucket_next = head[0]
    head[0] = at


cdef void dirty_add(
    Core *core, Volume *volume, uint64_t page, uint64_t lsn, uint8_t *data, uint32_t sum
) noexcept nogil:
    cdef Version *versions = core.dirty.versions
    cdef uint32_t at, old
    if core.dirty.free_head != NONE:
        at = core.dirty.free_head
        core.dirty.free_head = versions[at].bucket_next
    else:
        sp_assert(core.dirty.fresh < core.dirty.room, b"dirty map has room, the caller looked")
        at = core.dirty.fresh
        core.dirty.fresh += 1
    core.dirty.used += 1
    old = newest(core, volume, page)
    versions[at].volume = volume
    versions[at].page = page
    versions[at].lsn = lsn
    versions[at].data = data
    versions[at].sum = sum
    versions[at].older = old
    versions[at].newer = NONE
    if old != NONE:
        sp_assert(versions[old].lsn <= lsn, b"versions of a page come in LSN order")
        unlink_bucket(core, old)
        versions[old].newer = at
    link_bucket(core, at)
    versions[at].fifo_next = NONE
    versions[at].fifo_prev = volume.fifo_tail
    if volume.fifo_tail != NONE:
        sp_assert(versions[volume.fifo_tail].lsn <= lsn, b"versions of a volume come in LSN order")
        versions[volume.fifo_tail].fifo_next = at
    else:
        volume.fifo_head = at
    volume.fifo_tail = at
    volume.version_count += 1


cdef bint dirty_zero_room(Volume *volume, uint32_t count) noexcept nogil:
    return volume.span_count + count <= SPANS_MAX


cdef void dirty_zero(Volume *volume, uint64_t page, uint64_t count, uint64_t lsn) noexcept nogil:
    cdef Span *span = &volume.spans[volume.span_count]
    sp_assert(volume.span_count < SPANS_MAX, b"there is room for a zero entry, the caller looked")
    sp_assert(volume.span_count == 0 or (span - 1).lsn < lsn, b"zero entries come in LSN order")
    span.lsn = lsn
    span.first_page = page
    span.end_page = page + count
    volume.span_count += 1


cdef uint64_t dirty_zeroed(const Volume *volume, uint64_t page, uint64_t above, uint64_t lsn) noexcept nogil:
    cdef uint32_t i = volume.span_count
    cdef const Span *span
    while i > 0:
        i -= 1
        span = &volume.spans[i]
        if span.lsn <= above:
            return 0
        if span.lsn <= lsn and span.first_page <= page < span.end_page:
            return span.lsn
    return 0


cdef Version *dirty_find(Core *core, Volume *volume, uint64_t page, uint64_t lsn) noexcept nogil:
    cdef uint32_t at = NONE
    cdef uint64_t zeroed
    if volume.version_count != 0:
        at = newest(core, volume, page)
        while at != NONE and core.dirty.versions[at].lsn > lsn:
            at = core.dirty.versions[at].older
    if volume.span_count != 0:
        zeroed = dirty_zeroed(volume, page, 0 if at == NONE else core.dirty.versions[at].lsn, lsn)
        if zeroed != 0:
            core.dirty.zeros.lsn = zeroed
            return &core.dirty.zeros
    return NULL if at == NONE else &core.dirty.versions[at]


cdef void drop(Core *core, uint32_t at) noexcept nogil:
    cdef Version *versions = core.dirty.versions
    cdef Version *version = &versions[at]
    cdef Volume *volume = version.volume
    if version.newer == NONE:
        unlink_bucket(core, at)
        if version.older != NONE:
            versions[version.older].newer = NONE
            link_bucket(core, version.older)
    else:
        versions[version.newer].older = version.older
        if version.older != NONE:
            versions[version.older].newer = version.newer
    if version.fifo_prev != NONE:
        versions[version.fifo_prev].fifo_next = version.fifo_next
    else:
        volume.fifo_head = version.fifo_next
    if version.fifo_next != NONE:
        versions[version.fifo_next].fifo_prev = version.fifo_prev
    else:
        volume.fifo_tail = version.fifo_prev
    volume.version_count -= 1
    core.dirty.used -= 1
    if version.data != NULL:
        page_drop(&core.reactor.pool, version.data)
    version.volume = NULL
    version.bucket_next = core.dirty.free_head
    core.dirty.free_head = at


cdef void dirty_drop_to(Core *core, Volume *volume, uint64_t lsn) noexcept nogil:
    cdef uint32_t gone = 0
    cdef uint32_t before = volume.version_count
    while gone < volume.span_count and volume.spans[gone].lsn <= lsn:
        gone += 1
    if gone != 0:
        volume.span_count -= gone
        memmove(&volume.spans[0], &volume.spans[gone], volume.span_count * sizeof(Span))
    while volume.fifo_head != NONE and core.dirty.versions[volume.fifo_head].lsn <= lsn:
        drop(core, volume.fifo_head)
    behind_gone(volume, before - volume.version_count)


cdef void dirty_cut_above(Core *core, Volume *volume, uint64_t lsn) noexcept nogil:
    while volume.span_count != 0 and volume.spans[volume.span_count - 1].lsn > lsn:
        volume.span_count -= 1
    while volume.fifo_tail != NONE and core.dirty.versions[volume.fifo_tail].lsn > lsn:
        drop(core, volume.fifo_tail)
    volume.behind_count = min(volume.behind_count, volume.version_count)
