# Batches of the ring that are not what was written there, and where a log begins anew behind them. Thread: reactor.
from libc.stdint cimport uint8_t, uint64_t

from sparrow._native.volume cimport Rec, Volume

# Whether these pages, header first, are exactly the batch that `rec` names: its header by checksum, its payload by the
# sums in the header.
cdef bint batch_whole(Volume *volume, const Rec *rec, uint8_t **pages) noexcept nogil
# The same of one piece of memory.
cdef bint bytes_whole(Volume *volume, const Rec *rec, uint8_t *data) noexcept nogil
# Tell the control side, once for each batch.
cdef void batch_damaged(Volume *volume, Rec *rec) noexcept nogil
# Record in the superblock where the log goes on behind `lsn`, which is applied: recovery can begin there.
cdef void log_anchor(Volume *volume, uint64_t lsn) noexcept nogil
