# Pages of the extents in memory, for reads. Thread: reactor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.volume cimport Core, Volume

# Room for so many pages; 0 for none, then nothing is ever kept.
cdef int cache_open(Core *core, uint32_t pages) noexcept nogil
cdef void cache_close(Core *core) noexcept nogil
# The page, if it is here with this sum, or NULL. Whoever keeps it holds it.
cdef uint8_t *cache_find(Core *core, Volume *volume, uint64_t page, uint32_t sum) noexcept nogil
# Keep a page of this sum, with a reference of its own, instead of whatever was kept of it.
cdef void cache_put(Core *core, Volume *volume, uint64_t page, uint8_t *data, uint32_t sum) noexcept nogil
# Pages of a large read, all of them found here and held by the reader since then: where they lie apart in memory again,
# they are moved together, here and for the reader.
cdef void cache_gather(Core *core, Volume *volume, uint64_t first, uint32_t count, uint8_t **pages) noexcept nogil
# Pages that are about to be looked for: have what the look will touch on its way, in three passes, each of which needs
# what the one before it has fetched. They change nothing, and believe nothing they find.
cdef void cache_fetch_buckets(Core *core, Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil
cdef void cache_fetch_spans(Core *core, Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil
cdef void cache_fetch_pages(Core *core, Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil
# The extents hold something else there, or will.
cdef void cache_drop(Core *core, Volume *volume, uint64_t page) noexcept nogil
cdef void cache_forget(Core *core, Volume *volume) noexcept nogil
