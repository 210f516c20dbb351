"""The page pool alone, for tests."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.pool cimport PAGE, Pool, page_drop, page_hold, page_take, page_take_run, pool_close, pool_open


cdef class PoolBed:
    """A pool of so many pages; pages are known by their index."""

    cdef Pool pool

    def __cinit__(self, uint32_t working, uint32_t lent=0):
        if pool_open(&self.pool, working, lent) < 0:
            raise MemoryError

    def __dealloc__(self):
        pool_close(&self.pool)

    @property
    def free(self):
        return self.pool.free_count

    @property
    def whole(self):
        """Chunks that are free as a whole, as it counts them."""
        return self.pool.whole_count

    def take(self, bint run=False):
        """The index of a page, or None when there is none."""
        cdef uint8_t *page = page_take_run(&self.pool) if run else page_take(&self.pool)
        return None if page == NULL else <uint64_t>(page - self.pool.base) // PAGE

    def hold(self, uint32_t index):
        page_hold(&self.pool, self.pool.base + <uint64_t>index * PAGE)

    def drop(self, uint32_t index):
        page_drop(&self.pool, self.pool.base + <uint64_t>index * PAGE)
