"""The read cache: pages of the extents in pages of the pool, so that a read is one copy, from here to the socket.

It is filled by what the flusher has applied and by what clients' reads brought from the disk, both with their sums
compared. It makes the flusher independent of the page cache: what was written past that is found here.

Safety argument. A page that is here is never written to: it has a reference of its own, and whoever fills a page of the
pool took it fresh. A read looks here where it would look into the extents, so behind the dirty map and behind the state
of the page, and believes what it finds only when its sum is the one that the sums block holds at that moment. Every
sum that changes (`frame_set`) drops the page here first, so a sum that is equal by chance does not matter either, but
for a read from the disk that was under way meanwhile; that one is compared with the same sum by `on_read`, so it is no
weaker than the disk. A volume that is closed or emptied is forgotten. A crash loses nothing: it is a copy.

Pages are found by spans of sixteen neighbours, because large reads would otherwise pay for a cache line or two of the
index per page. When there is no room the clock's hand goes on: a span that was read since it came by last stays. So a
pass over a volume that is read once pushes out only what nobody reads twice.

Random writes leave neighbours of the volume far apart in memory, and a large read of them pays for each: a piece of the
send, an entry of the TLB, a line of the pool's counts. So the second large read that finds them apart, before the hand
came by, moves them together (`cache_gather`); a pass that reads everything once moves nothing. What is moved is what
the read has just found, with the sum of this moment, and no page is written to: the copies are pages taken fresh, and
nothing else runs between the look and the exchange. Whoever still holds an old one keeps it as it is. Chunks that are
free as a whole are left to writers when they become few.

Memory. The pool is larger by what may be kept here (`Pool.working` is the rest), so nothing else has less than without
it; when others hold more than their part, this one shrinks before it grows.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.ahead cimport sp_prefetch, sp_prefetch_much
from sparrow._native.pool cimport CHUNK, PAGE, Pool, page_drop, page_hold, page_take_run
from sparrow._native.sys cimport ENOMEM, calloc, free, malloc, memcpy, memset, sp_assert
from sparrow._native.volume cimport CACHE_PAGES, NONE, CacheSpan, Core, Volume

cdef enum:
    GRACE_MAX = 64         # so many spans are passed by because they were read
    LOOKS_MAX = 256
    PIECE_PAGES = 4        # pages are gathered when a piece of neighbours has fewer on average
    WHOLE_PART = 16        # of all chunks, left to those who write
    LINE = 64
    FETCH_LINES = 16       # of a page that will be sent: the processor goes on by itself from there


cdef int cache_open(Core *core, uint32_t pages) noexcept nogil:
    # Reads of single pages fill spans badly: a quarter of them is room enough for four pages of each.
    cdef uint32_t room = max(<uint32_t>16, pages // 4)
    cdef uint32_t buckets = 64
    memset(&core.cache, 0, sizeof(core.cache))
    core.cache.last = NONE
    core.cache.free_head = NONE
    if pages == 0:
        return 0
    while buckets < room:
        buckets *= 2
    # Touched as it fills.
    core.cache.spans = <CacheSpan *>calloc(room, sizeof(CacheSpan))
    core.cache.buckets = <uint32_t *>malloc(buckets * sizeof(uint32_t))
    if core.cache.spans == NULL or core.cache.buckets == NULL:
        cache_close(core)
        return -ENOMEM
    memset(core.cache.buckets, 0xFF, buckets * sizeof(uint32_t))
    core.cache.mask = buckets - 1
    core.cache.room = room
    core.cache.pages_max = pages
    return 0


cdef void cache_close(Core *core) noexcept nogil:
    free(core.cache.spans)
    free(core.cache.buckets)
    memset(&core.cache, 0, sizeof(core.cache))


cdef inline uint32_t bucket_of(Core *core, Volume *volume, uint64_t number) noexcept nogil:
    cdef uint64_t h = (number ^ (<uint64_t>volume.index << 44)) * <uint64_t>0x9E3779B97F4A7C15
    return <uint32_t>(h >> 32) & core.cache.mask


cdef inline CacheSpan *locate(Core *core, Volume *volume, uint64_t number) noexcept nogil:
    cdef CacheSpan *span
    cdef uint32_t at = core.cache.last
    if at != NONE:
        span = &core.cache.spans[at]
        if span.volume == volume and span.number == number:
            return span
    at = core.cache.buckets[bucket_of(core, volume, number)]
    while at != NONE:
        span = &core.cache.spans[at]
        if span.volume == volume and span.number == number:
            core.cache.last = at
            return span
        at = span.next
    return NULL


cdef void drop_page(Core *core, CacheSpan *span, uint32_t i) noexcept nogil:
    page_drop(&core.reactor.pool, span.pages[i])
    span.pages[i] = NULL
    span.count -= 1
    core.cache.pages -= 1


cdef void release(Core *core, uint32_t at) noexcept nogil:
    """Everything of a span goes, and the span is free."""
    cdef CacheSpan *span = &core.cache.spans[at]
    cdef uint32_t *link = &core.cache.buckets[bucket_of(core, span.volume, span.number)]
    cdef uint32_t i
    for i in range(CACHE_PAGES):
        if span.pages[i] != NULL:
            drop_page(core, span, i)
    while link[0] != at:
        sp_assert(link[0] != NONE, b"a span is in its bucket")
        link = &core.cache.spans[link[0]].next
    link[0] = span.next
    span.volume = NULL
    span.next = core.cache.free_head
    core.cache.free_head = at
    if core.cache.last == at:
        core.cache.last = NONE


cdef bint evict(Core *core, const CacheSpan *keep) noexcept nogil:
    """Make one span free, after few looks: a turn must not get long. False when all seen are free or `keep`."""
    cdef CacheSpan *span
    cdef uint32_t looked
    for looked in range(LOOKS_MAX):
        core.cache.hand = core.cache.hand + 1 if core.cache.hand + 1 < core.cache.fresh else 0
        span = &core.cache.spans[core.cache.hand]
        if span.volume == NULL or span == keep:
            continue
        if span.used and looked < GRACE_MAX:
            span.used = False
            span.scattered = False
            continue
        release(core, core.cache.hand)
        return True
    return False


cdef CacheSpan *claim(Core *core, Volume *volume, uint64_t number) noexcept nogil:
    """A free span, as that of these pages."""
    cdef uint32_t at
    cdef uint32_t *head
    cdef CacheSpan *span
    if core.cache.free_head == NONE and core.cache.fresh == core.cache.room:
        evict(core, NULL)
    if core.cache.free_head != NONE:
        at = core.cache.free_head
        core.cache.free_head = core.cache.spans[at].next
    else:
        sp_assert(core.cache.fresh < core.cache.room, b"a span was made free")
        at = core.cache.fresh
        core.cache.fresh += 1
    span = &core.cache.spans[at]
    head = &core.cache.buckets[bucket_of(core, volume, number)]
    span.volume = volume
    span.number = number
    span.used = False
    span.scattered = False
    span.next = head[0]
    head[0] = at
    core.cache.last = at
    return span


cdef uint8_t *cache_find(Core *core, Volume *volume, uint64_t page, uint32_t sum) noexcept nogil:
    cdef uint32_t i = <uint32_t>(page % CACHE_PAGES)
    cdef CacheSpan *span
    if core.cache.pages == 0:
        return NULL
    span = locate(core, volume, page // CACHE_PAGES)
    if span == NULL or span.pages[i] == NULL or span.sums[i] != sum:
        return NULL
    span.used = True
    return span.pages[i]


cdef void cache_put(Core *core, Volume *volume, uint64_t page, uint8_t *data, uint32_t sum) noexcept nogil:
    cdef uint32_t i = <uint32_t>(page % CACHE_PAGES)
    cdef CacheSpan *span
    if core.cache.pages_max == 0:
        return
    span = locate(core, volume, page // CACHE_PAGES)
    if span == NULL:
        span = claim(core, volume, page // CACHE_PAGES)
    elif span.pages[i] != NULL:
        drop_page(core, span, i)
    page_hold(&core.reactor.pool, data)
    span.pages[i] = data
    span.sums[i] = sum
    span.count += 1
    core.cache.pages += 1
    if core.cache.pages > core.cache.pages_max or core.reactor.pool.free_count < core.reactor.pool.reserve:
        evict(core, span)


cdef void cache_fetch_buckets(Core *core, Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil:
    cdef uint32_t i
    if core.cache.pages == 0:
        return
    for i in range(count):
        sp_prefetch(&core.cache.buckets[bucket_of(core, volume, pages[i] // CACHE_PAGES)])


cdef void cache_fetch_spans(Core *core, Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil:
    cdef CacheSpan *span
    cdef uint32_t i, at
    if core.cache.pages == 0:
        return
    for i in range(count):
        # The first of its chain is the one, as a rule.
        at = core.cache.buckets[bucket_of(core, volume, pages[i] // CACHE_PAGES)]
        if at != NONE:
            span = &core.cache.spans[at]
            sp_prefetch(span)
            sp_prefetch(&span.pages[pages[i] % CACHE_PAGES])
            sp_prefetch(&span.sums[pages[i] % CACHE_PAGES])


cdef void cache_fetch_pages(Core *core, Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil:
    cdef Pool *pool = &core.reactor.pool
    cdef CacheSpan *span
    cdef uint8_t *page
    cdef uint32_t i, k, at
    if core.cache.pages == 0:
        return
    for i in range(count):
        at = core.cache.buckets[bucket_of(core, volume, pages[i] // CACHE_PAGES)]
        if at == NONE:
            continue
        span = &core.cache.spans[at]
        page = span.pages[pages[i] % CACHE_PAGES]
        if span.number != pages[i] // CACHE_PAGES or page == NULL:
            continue
        sp_prefetch(&pool.refs[(page - pool.base) // PAGE])
        for k in range(FETCH_LINES):
            sp_prefetch_much(page + LINE * k)


cdef bint found_apart_again(Core *core, Volume *volume, uint64_t first, uint32_t count) noexcept nogil:
    """Whether a large read found all of these spans apart before; now one did."""
    cdef uint64_t number
    cdef CacheSpan *span
    cdef bint again = True
    for number in range(first // CACHE_PAGES, (first + count - 1) // CACHE_PAGES + 1):
        span = locate(core, volume, number)
        sp_assert(span != NULL, b"a span of pages that were just found")
        again &= span.scattered
        span.scattered = True
    return again


cdef void cache_gather(Core *core, Volume *volume, uint64_t first, uint32_t count, uint8_t **pages) noexcept nogil:
    cdef Pool *pool = &core.reactor.pool
    cdef uint32_t pieces = 1
    cdef uint32_t i
    cdef uint8_t *page
    cdef CacheSpan *span
    for i in range(1, count):
        pieces += pages[i] != pages[i - 1] + PAGE
    if pieces * PIECE_PAGES <= count or not found_apart_again(core, volume, first, count):
        return
    if pool.whole_count < (count + CHUNK - 1) // CHUNK + pool.chunks // WHOLE_PART or pool.free_count < pool.reserve + count:
        return
    for i in range(count):
        span = locate(core, volume, (first + i) // CACHE_PAGES)
        sp_assert(span.pages[(first + i) % CACHE_PAGES] == pages[i], b"what was found here is here")
        page = page_take_run(pool)
        memcpy(page, pages[i], PAGE)
        span.pages[(first + i) % CACHE_PAGES] = page
        span.scattered = False
        page_hold(pool, page)
        page_drop(pool, pages[i])
        page_drop(pool, pages[i])
        pages[i] = page
    core.cache.gathered += count


cdef void cache_drop(Core *core, Volume *volume, uint64_t page) noexcept nogil:
    cdef uint32_t i = <uint32_t>(page % CACHE_PAGES)
    cdef CacheSpan *span
    if core.cache.pages == 0:
        return
    span = locate(core, volume, page // CACHE_PAGES)
    if span != NULL and span.pages[i] != NULL:
        drop_page(core, span, i)


cdef void cache_forget(Core *core, Volume *volume) noexcept nogil:
    cdef uint32_t at
    for at in range(core.cache.fresh):
        if core.cache.spans[at].volume == volume:
            release(core, at)
