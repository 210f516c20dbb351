# The log of one replica in memory and on disk: collect entries, close batches, write them, know what is durable.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.layout cimport sp_wal_batch
from sparrow._native.volume cimport Core, MemBatch, Rec, Volume

cdef enum:
    BLOCK = 4096

# Before any log: so many batches in memory for all of them; `share_from` as in wal/durable.pxd.
cdef int logs_open(Core *core, uint32_t batches, uint32_t share_from, int flush_fd) noexcept nogil

# ---- one log
cdef int log_open(Volume *volume, int fd, uint64_t base, uint64_t ring_bytes, uint32_t writes_max) noexcept nogil
cdef void log_close(Volume *volume) noexcept nogil
# Primary: add one entry (a resize has its pages as `first_page`); pages keep their references, the batch takes its own.
# Returns the LSN, 0 when there is no room.
cdef uint64_t log_append(Volume *volume, uint8_t kind, uint64_t first_page, uint32_t count, uint8_t **pages) noexcept nogil
# Follower: take over a received batch whose header was checked against the log's end; written when its floor allows.
cdef void log_take(Volume *volume, MemBatch *batch) noexcept nogil
# Room for one more batch of any size?
cdef bint log_room(Volume *volume) noexcept nogil
# The same for a batch that a primary found room for: without the margin that a primary keeps, and a term start
# wherever its few blocks fit.
cdef bint log_room_received(Volume *volume, const sp_wal_batch *head) noexcept nogil
cdef uint64_t log_free_bytes(Volume *volume) noexcept nogil
# Where an offset in the ring lies in the log's file or device.
cdef inline uint64_t log_at(Volume *volume, uint64_t offset) noexcept nogil:
    return volume.log.base + offset
# Where the next batch of so many bytes would begin.
cdef uint64_t log_place(Volume *volume, uint32_t size) noexcept nogil
cdef Rec *log_rec(Volume *volume, uint64_t sequence) noexcept nogil
# How long the oldest batch above an LSN has been under way, ns; 0 when there is none, or nobody knows.
cdef uint64_t log_age(Volume *volume, uint64_t lsn, uint64_t now) noexcept nogil
# Sequence of the batch whose first LSN is `lsn`, or <uint64_t>-1.
cdef uint64_t log_find(Volume *volume, uint64_t lsn) noexcept nogil
# Header checksum of the batch that ends at `lsn`; False when the log does not know.
cdef bint log_check_at(Volume *volume, uint64_t lsn, uint32_t *check) noexcept nogil
# Append to the index a batch that is in the ring already (recovery, taken batches). Returns its Rec.
cdef Rec *log_index(Volume *volume, const sp_wal_batch *head, uint64_t offset) noexcept nogil
# Forget batches up to the one that ends at `lsn`: only the index; the superblock makes it durable.
cdef void log_forget_to(Volume *volume, uint64_t lsn) noexcept nogil
# Cut everything above `lsn` (the end of a batch) out of index and term table; the disk is the caller's.
cdef void log_cut_index(Volume *volume, uint64_t lsn) noexcept nogil
cdef void log_add_term(Volume *volume, uint64_t epoch, uint64_t start, uint64_t first_lsn) noexcept nogil
# Header of a batch whole and of this volume?
cdef bint head_valid(uint64_t volume_key, const uint8_t *blocks, uint32_t have) noexcept nogil
# Table entries of a batch; each has SP_TABLE_PAGES of its pages, which are no pages of the volume.
cdef uint32_t batch_tables(const sp_wal_batch *head) noexcept nogil
