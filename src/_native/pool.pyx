"""The page pool: one mapping, a stack of free indices, a count per page."""

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
    pool.free = <uint32_t *>calloc(count, sizeof(uint32_t))
    if pool.refs == NULL or pool.free == NULL:
        pool_close(pool)
        return -ENOMEM
    pool.count = count
    pool.working = working
    pool.reserve = working // 8
    # Low indices on top of the stack, so that a quiet node touches little memory.
    for i in range(count):
        pool.free[i] = count - 1 - i
    pool.free_count = count
    pool.zero_page = page_take(pool)
    memset(pool.zero_page, 0, PAGE)
    return 0


cdef void pool_close(Pool *pool) noexcept nogil:
    if pool.base != NULL:
        munmap(pool.base, <uint64_t>pool.count * PAGE)
    free(pool.refs)
    free(pool.free)
    memset(pool, 0, sizeof(Pool))
