# Batches in memory, shared by all logs, and those that stay there for live peers. Thread: reactor.
from libc.stdint cimport uint8_t, uint32_t

from sparrow._native.volume cimport Core, MemBatch, Rec, Volume

cdef int batches_open(Core *core, uint32_t count) noexcept nogil
cdef void batches_close(Core *core) noexcept nogil
# One with one reference and a header page, or NULL.
cdef MemBatch *batch_take(Core *core, Volume *volume) noexcept nogil
# The same around a header page that was received; takes its reference.
cdef MemBatch *batch_take_header(Core *core, Volume *volume, uint8_t *page) noexcept nogil
cdef void batch_hold(MemBatch *batch) noexcept nogil
cdef void batch_drop(Core *core, MemBatch *batch) noexcept nogil
# The newest batch of its log stays in memory; older ones go for it.
cdef void batch_keep(Volume *volume, MemBatch *batch, Rec *rec) noexcept nogil
# This one, which has its batch in memory, does not stay.
cdef void batch_let_go(Core *core, Volume *volume, Rec *rec) noexcept nogil
