"""One send of a ship link: what is gathered here leaves in one call and is held until all of it has left."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.layout cimport SP_FRAME_BATCH, SP_SHIP_FRAME_SIZE, SP_SHIP_MAGIC, sp_ship_frame
from sparrow._native.pool cimport PAGE, page_drop
from sparrow._native.sys cimport iovec, sp_assert, sp_crc32c
from sparrow._native.volume cimport SEND_IOV, Core, MemBatch, Ship
from sparrow._native.wal.batches cimport batch_drop, batch_hold
from sparrow._native.wal.log cimport BLOCK


cdef void add_iov(Ship *ship, void *data, uint32_t size) noexcept nogil:
    cdef iovec *last
    if ship.iov_count > 0:
        last = &ship.iov[ship.iov_count - 1]
        if <uint8_t *>last.iov_base + last.iov_len == <uint8_t *>data:
            last.iov_len += size
            return
    sp_assert(ship.iov_count < SEND_IOV, b"a send fits its vector")
    ship.iov[ship.iov_count].iov_base = data
    ship.iov[ship.iov_count].iov_len = size
    ship.iov_count += 1


cdef void add_head(Ship *ship, uint32_t kind, uint32_t body_bytes, uint64_t as_of) noexcept nogil:
    cdef sp_ship_frame *head = &ship.heads[ship.head_count]
    ship.head_count += 1
    head.magic = <uint32_t>SP_SHIP_MAGIC
    head.check = 0
    head.kind = kind
    head.body_bytes = body_bytes
    head.term_epoch = ship.epoch
    head.term_start = ship.start
    head.commit_lsn = ship.volume.commit_lsn
    head.as_of_lsn = as_of
    head.check = sp_crc32c(0, head, SP_SHIP_FRAME_SIZE)
    ship.sent_commit = ship.volume.commit_lsn
    add_iov(ship, head, SP_SHIP_FRAME_SIZE)


cdef void add_page(Ship *ship, uint8_t *page) noexcept nogil:
    sp_assert(ship.page_count < SEND_PAGES, b"a send has room for its pages")
    ship.pages[ship.page_count] = page
    ship.page_count += 1
    add_iov(ship, page, PAGE)


cdef uint32_t add_batch(Ship *ship, MemBatch *batch) noexcept nogil:
    cdef uint32_t i
    add_head(ship, SP_FRAME_BATCH, (1 + batch.page_count) * BLOCK, 0)
    add_iov(ship, batch.header, BLOCK)
    for i in range(batch.page_count):
        add_iov(ship, batch.pages[i], PAGE)
    batch_hold(batch)
    ship.held[ship.held_count] = batch
    ship.held_count += 1
    return (1 + batch.page_count) * BLOCK


cdef void release_sent(Ship *ship) noexcept nogil:
    cdef Core *core = <Core *>ship.volume.reactor.core
    cdef uint32_t i
    for i in range(ship.held_count):
        batch_drop(core, ship.held[i])
    for i in range(ship.page_count):
        page_drop(&core.reactor.pool, ship.pages[i])
    ship.held_count = 0
    ship.page_count = 0
    ship.head_count = 0
    ship.iov_count = 0
