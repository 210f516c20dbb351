# Writes that do not cover their first or last page, and COMPARE AND WRITE: what is on those pages. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.volume cimport BlockReq, Core, Volume

cdef enum MergeVerdict:
    MERGE_READY = 0
    MERGE_WAIT = 1             # pages are being read; the request is submitted again, or refused, when they are here
    MERGE_FULL = 2             # too many at once: ask again later

cdef int merges_open(Core *core, uint32_t count) noexcept nogil
cdef void merges_close(Core *core) noexcept nogil
# Does the request need to know what is on its pages?
cdef bint merge_wanted(const BlockReq *req) noexcept nogil
# Make known what lies under the request. `submit` takes the request again, `refuse` ends it with an error.
cdef MergeVerdict merge_prepare(
    BlockReq *req, void (*submit)(BlockReq *req) noexcept nogil, void (*refuse)(BlockReq *req, int rc) noexcept nogil
) noexcept nogil
# READY, and in the turn of log_append: complete the pages of the request from the newest version there is.
cdef void merge_fill(BlockReq *req) noexcept nogil
# READY, in the turn of log_append: the first byte that differs from what is compared, and the LSN that its answer must
# wait for; False when all are equal.
cdef bint merge_differs(BlockReq *req, uint32_t *at, uint64_t *lsn) noexcept nogil
# Nothing is to be known any more.
cdef void merge_release(BlockReq *req) noexcept nogil
# The flusher lets go of versions up to this LSN: whoever counts on the extents takes what went there.
cdef void merge_refresh(Volume *volume, uint64_t lsn) noexcept nogil
