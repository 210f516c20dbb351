# Aligned 4 KiB pages, counted references, sized once at start. Thread: the reactor that owns the pool.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.sys cimport sp_assert


cdef enum:
    PAGE = 4096


cdef struct Pool:
    uint8_t *base
    uint32_t count
    uint32_t working       # of them, without what the read cache may keep
    uint32_t *refs         # per page; 0 means free
    uint32_t *free         # stack of free indices
    uint32_t free_count
    uint32_t reserve       # frontends stop taking when only this many are left: replication must go on
    uint8_t *zero_page     # shared page of zeros, never freed


# `lent`: of so many pages beyond `working` the read cache may keep what it likes.
cdef int pool_open(Pool *pool, uint32_t working, uint32_t lent) noexcept nogil
cdef void pool_close(Pool *pool) noexcept nogil


cdef inline uint8_t *page_take(Pool *pool) noexcept nogil:
    """A page with one reference, or NULL when none is left; content is undefined."""
    cdef uint32_t index
    if pool.free_count == 0:
        return NULL
    pool.free_count -= 1
    index = pool.free[pool.free_count]
    pool.refs[index] = 1
    return pool.base + <uint64_t>index * PAGE


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


cdef inline void page_drop(Pool *pool, uint8_t *page) noexcept nogil:
    cdef uint32_t index = <uint32_t>((page - pool.base) // PAGE)
    sp_assert(index < pool.count and pool.refs[index] > 0, b"page dropped that nobody holds")
    pool.refs[index] -= 1
    if pool.refs[index] == 0:
        pool.free[pool.free_count] = index
        pool.free_count += 1


cdef inline bint page_spare(Pool *pool, uint32_t count) noexcept nogil:
    """Whether a frontend may take so many pages now."""
    return pool.free_count >= pool.reserve + count
