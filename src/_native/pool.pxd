# Aligned 4 KiB pages, counted references, sized once at start. Thread: the reactor that owns the pool.
#
# Pages of a large request should be neighbours: fewer pieces in every vector, pages pinned together. So free pages are
# kept by chunks of 32. Single pages come out of chunks that are in use in part, runs out of a chunk that was free as a
# whole, as long as there is one.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.sys cimport sp_assert, sp_low_bit


cdef enum:
    PAGE = 4096
    CHUNK = 32             # pages
    NO_CHUNK = 0xFFFFFFFF
    RUN_MIN = 8            # so many pages are taken as a run


cdef struct Pool:
    uint8_t *base
    uint32_t count
    uint32_t working       # of them, without what the read cache may keep
    uint32_t *refs         # per page; 0 means free
    uint32_t *free         # per chunk, a bit for each free page
    uint32_t *next         # per chunk: of the same list
    uint32_t *prev         # per chunk, while in `partial`
    uint32_t chunks
    uint32_t last_full     # bits of the last chunk, which may be shorter
    uint32_t whole         # list of chunks that are free as a whole
    uint32_t whole_count
    uint32_t partial       # list of chunks that are in part
    uint32_t run           # chunk that runs come out of, in neither list; NO_CHUNK for none
    uint32_t free_count
    uint32_t reserve       # frontends stop taking when only this many are left: replication must go on
    uint8_t *zero_page     # shared page of zeros, never freed


# `lent`: of so many pages beyond `working` the read cache may keep what it likes.
cdef int pool_open(Pool *pool, uint32_t working, uint32_t lent) noexcept nogil
cdef void pool_close(Pool *pool) noexcept nogil


cdef inline void partial_add(Pool *pool, uint32_t chunk) noexcept nogil:
    pool.next[chunk] = pool.partial
    pool.prev[chunk] = NO_CHUNK
    if pool.partial != NO_CHUNK:
        pool.prev[pool.partial] = chunk
    pool.partial = chunk


cdef inline void partial_remove(Pool *pool, uint32_t chunk) noexcept nogil:
    if pool.prev[chunk] != NO_CHUNK:
        pool.next[pool.prev[chunk]] = pool.next[chunk]
    else:
        pool.partial = pool.next[chunk]
    if pool.next[chunk] != NO_CHUNK:
        pool.prev[pool.next[chunk]] = pool.prev[chunk]


cdef inline void whole_add(Pool *pool, uint32_t chunk) noexcept nogil:
    pool.next[chunk] = pool.whole
    pool.whole = chunk
    pool.whole_count += 1


cdef inline uint32_t whole_take(Pool *pool) noexcept nogil:
    cdef uint32_t chunk = pool.whole
    pool.whole = pool.next[chunk]
    pool.whole_count -= 1
    return chunk


cdef inline uint32_t chunk_full(const Pool *pool, uint32_t chunk) noexcept nogil:
    return pool.last_full if chunk + 1 == pool.chunks else <uint32_t>0xFFFFFFFF


cdef inline void run_close(Pool *pool) noexcept nogil:
    """Runs come out of it no more: it belongs where its free pages say."""
    cdef uint32_t chunk = pool.run
    pool.run = NO_CHUNK
    if chunk == NO_CHUNK or pool.free[chunk] == 0:
        return
    if pool.free[chunk] == chunk_full(pool, chunk):
        whole_add(pool, chunk)
    else:
        partial_add(pool, chunk)


cdef inline uint8_t *take_from(Pool *pool, uint32_t chunk) noexcept nogil:
    cdef uint32_t index = chunk * CHUNK + sp_low_bit(pool.free[chunk])
    pool.free[chunk] &= pool.free[chunk] - 1
    pool.free_count -= 1
    pool.refs[index] = 1
    return pool.base + <uint64_t>index * PAGE


cdef inline uint8_t *page_take(Pool *pool) noexcept nogil:
    """A page with one reference, or NULL when none is left; content is undefined."""
    cdef uint32_t chunk
    cdef uint8_t *page
    if pool.free_count == 0:
        return NULL
    if pool.partial == NO_CHUNK:
        if pool.whole == NO_CHUNK:
            run_close(pool)
        if pool.whole != NO_CHUNK:
            partial_add(pool, whole_take(pool))
    chunk = pool.partial
    page = take_from(pool, chunk)
    if pool.free[chunk] == 0:
        partial_remove(pool, chunk)
    return page


cdef inline uint8_t *page_take_run(Pool *pool) noexcept nogil:
    """As `page_take`, for the next of many pages: the neighbour of the one before, as long as chunks are free as a whole."""
    if pool.run == NO_CHUNK or pool.free[pool.run] == 0:
        if pool.whole == NO_CHUNK:
            return page_take(pool)
        pool.run = whole_take(pool)
    return take_from(pool, pool.run)


cdef inline void pages_rise(uint8_t **pages, uint32_t count) noexcept nogil:
    """Pages that were just taken, the other way round when they fall: neighbours in memory go as one piece."""
    cdef uint8_t *page
    cdef uint32_t i
    if count < 2 or pages[0] < pages[count - 1]:
        return
    for i in range(count // 2):
        page = pages[i]
        pages[i] = pages[count - 1 - i]
        pages[count - 1 - i] = page


cdef inline void page_hold(Pool *pool, uint8_t *page) noexcept nogil:
    cdef uint32_t index = <uint32_t>((page - pool.base) // PAGE)
    pool.refs[index] += 1


cdef inline void page_free(Pool *pool, uint32_t index) noexcept nogil:
    cdef uint32_t chunk = index // CHUNK
    cdef uint32_t before = pool.free[chunk]
    pool.free[chunk] = before | <uint32_t>1 << (index % CHUNK)
    pool.free_count += 1
    if chunk == pool.run:
        return
    if pool.free[chunk] == chunk_full(pool, chunk):
        if before != 0:
            partial_remove(pool, chunk)
        whole_add(pool, chunk)
    elif before == 0:
        partial_add(pool, chunk)


cdef inline void page_drop(Pool *pool, uint8_t *page) noexcept nogil:
    cdef uint32_t index = <uint32_t>((page - pool.base) // PAGE)
    sp_assert(index < pool.count and pool.refs[index] > 0, b"page dropped that nobody holds")
    pool.refs[index] -= 1
    if pool.refs[index] == 0:
        page_free(pool, index)


cdef inline bint page_spare(const Pool *pool, uint32_t count) noexcept nogil:
    """Whether a frontend may take so many pages now."""
    return pool.free_count >= pool.reserve + count
