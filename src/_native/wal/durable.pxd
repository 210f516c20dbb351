# How a batch becomes durable on the device of the logs: by its own write, or by a flush it shares with others.
from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.volume cimport Core, MemBatch

ctypedef void (*batch_done)(MemBatch *batch, int32_t res) noexcept nogil

# `share_from`: from this many batches under way on the device flushes are shared; 0 for never. `flush_fd`: an open file on
# that device which nobody writes, for these flushes; -1: they go to a log.
cdef void durable_open(Core *core, uint32_t share_from, int flush_fd, batch_done done) noexcept nogil
# Write `batch.iov[:count]` at `offset` of the volume's log; `done` comes once, when it is durable or has failed.
cdef void durable_write(MemBatch *batch, uint32_t count, uint64_t offset) noexcept nogil
