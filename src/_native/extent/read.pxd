# Reads through the committed view, every disk page checked against its sum. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.volume cimport BlockReq, Core, Volume

cdef int reads_open(Core *core, uint32_t runs) noexcept nogil
cdef void reads_close(Core *core) noexcept nogil
# Start a READ. A view other than the commit LSN may be named in req.lsn by internal requests; 0 means the commit LSN.
cdef void read_start(BlockReq *req) noexcept nogil
# Reads of these pages, in this order, are about to be started: have what they will look at on its way from memory. Of
# an idle volume nothing is in a cache of the processor, and of one at work no page is; a hint, and right whatever the
# pages.
cdef void read_expect(Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil
# Reads that wait for the repair of this page: look again, or fail them with rc.
cdef void read_repaired(Volume *volume, uint64_t page, int rc) noexcept nogil
# The same for whoever waits for a sums block that is whole again.
cdef void read_block_mended(Volume *volume, uint64_t block) noexcept nogil
# Wait, bounded, until the sums block of `req.bad_page` is whole again. A write that waits is submitted anew then; it is
# counted among the volume's reads under way.
cdef void await_repair(BlockReq *req) noexcept nogil
