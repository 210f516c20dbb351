"""A batch is known by its checksum, so a copy from anywhere is either the identical bytes or none."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.crc cimport crc_page
from sparrow._native.events cimport EVENT_BATCH_DAMAGED, event_up
from sparrow._native.layout cimport SP_WAL_BATCH_SIZE, SP_WAL_ENTRY_SIZE, sp_wal_batch
from sparrow._native.volume cimport Log, Rec, Volume
from sparrow._native.wal.log cimport BLOCK, head_valid, log_find, log_rec

cdef uint64_t NOWHERE = <uint64_t>-1


cdef bint batch_whole(Volume *volume, const Rec *rec, uint8_t **pages) noexcept nogil:
    cdef const sp_wal_batch *head = <const sp_wal_batch *>pages[0]
    cdef const uint32_t *sums
    cdef uint32_t i
    if not head_valid(volume.key, pages[0], BLOCK) or head.check != rec.check or rec.bytes != (1 + head.page_count) * BLOCK:
        return False
    sums = <const uint32_t *>(pages[0] + SP_WAL_BATCH_SIZE + head.entry_count * SP_WAL_ENTRY_SIZE)
    for i in range(head.page_count):
        if crc_page(pages[1 + i]) != sums[i]:
            return False
    return True


cdef bint bytes_whole(Volume *volume, const Rec *rec, uint8_t *data) noexcept nogil:
    cdef uint8_t *pages[257]
    cdef uint32_t i
    for i in range(rec.bytes // BLOCK):
        pages[i] = data + <uint64_t>i * BLOCK
    return batch_whole(volume, rec, pages)


cdef void batch_damaged(Volume *volume, Rec *rec) noexcept nogil:
    if not rec.damaged:
        rec.damaged = True
        event_up(volume, EVENT_BATCH_DAMAGED, rec.first_lsn, rec.last_lsn, 0, 0)


cdef void log_anchor(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef Log *log = &volume.log
    cdef uint64_t at = log_find(volume, lsn + 1)
    if at != NOWHERE:
        volume.super.now.applied_offset = log_rec(volume, at).offset
        volume.super.now.applied_check = log_rec(volume, at).parent
    elif lsn == log.head_lsn:
        volume.super.now.applied_offset = log.head_offset
        volume.super.now.applied_check = log.head_check
    else:
        volume.super.now.applied_offset = log.tail_offset
        volume.super.now.applied_check = log.tail_check
