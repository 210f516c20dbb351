# What a frontend needs of a volume. Thread: reactor.
from sparrow._native.volume cimport BlockReq, Volume

# Submit a filled request. `done` may be called before this returns.
cdef void block_submit(BlockReq *req) noexcept nogil
# Take back a request that has no LSN yet; done(-ECANCELED) is called and True returned. False: it will complete.
cdef bint block_abort(BlockReq *req) noexcept nogil
cdef void block_init(Volume *volume) noexcept nogil
# Fail everything that waits (the volume is closing).
cdef void block_fail_all(Volume *volume, int rc) noexcept nogil
