"""The page pool: one mapping, free pages by chunks, a count per page."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.sys cimport (
    ENOMEM, MAP_ANONYMOUS, MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_READ, PROT_WRITE, calloc, free, memset, mmap,
    munmap,
)


cdef int pool_open(Pool *pool, uint32_t working, uint32_t lent) noexcept nogil:
    cdef uint32_t count = working + lent
    cdef uint32_t i
    memset(pool, 0, sizeof(Pool))
    pool.base = <uint8_t *>mmap(
        NULL, <uint64_t>count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    if <void *>pool.base == MAP_FAILED:
        pool.base = NULL
        return -ENOMEM
    pool.refs = <uint32_t *>calloc(count, sizeof(uint32_t))
    pool.chunks = (count + CHUNK - 1) // CHUNK
    pool.free = <uint32_t *>calloc(pool.chunks, sizeof(uint32_t))
    pool.next = <uint32_t *>calloc(pool.chunks, sizeof(uint32_t))
    pool.prev = <uint32_t *>calloc(pool.chunks, sizeof(uint32_t))
    if pool.refs == NULL or pool.free == NULL or pool.next == NULL or pool.prev == NULL:
        pool_close(pool)
        return -ENOMEM
    pool.count = count
    pool.working = working
    pool.reserve = working // 8
    pool.last_full = <uint32_t>0xFFFFFFFF >> (pool.chunks * CHUNK - count)
    pool.run = NO_CHUNK
    pool.partial = NO_CHUNK
    # Low ones first, so that a quiet node touches little memory.
    pool.whole = 0
    for i in range(pool.chunks):
        pool.free[i] = chunk_full(pool, i)
        pool.next[i] = i + 1 if i + 1 < pool.chunks else <uint32_t>NO_CHUNK
    pool.whole_count = pool.chunks
    pool.free_count = count
    pool.zero_page = page_take(pool)
    memset(pool.zero_page, 0, PAGE)
    return 0


cdef void pool_close(Pool *pool) noexcept nogil:
    if pool.base != NULL:
        munmap(pool.base, <uint64_t>pool.count * PAGE)
    free(pool.refs)
    free(pool.free)
    free(pool.next)
    free(pool.prev)
    memset(pool, 0, sizeof(Pool))
