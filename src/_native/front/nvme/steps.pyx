"""Dataset Management, Write Zeroes and Verify: one request of the volume after the other, so that what one command
holds is bounded.

Each step is one entry of the log, or one read; none of these commands promises more than that of each block. Deallocate
makes zero entries, and so does Write Zeroes with DEAC or without: a page of zeros has no place to keep.

Source: NVM command set 1.0, 3.2.3 (Dataset Management), 3.2.6 (Verify), 3.2.8 (Write Zeroes).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.front.client cimport client_submit
from sparrow._native.front.nvme.commands cimport request_fill
from sparrow._native.front.nvme.queue cimport SLOT_BLOCK, Slot
from sparrow._native.front.nvme.send cimport send_status
from sparrow._native.layout cimport (
    SP_NVME_DATASET, SP_NVME_DATASET_RANGE_SIZE, SP_NVME_SC_DNR, SP_NVME_SC_INTERRUPTED,
    SP_NVME_SC_RANGE, SP_NVME_VERIFY, SP_NVME_WRITE_ZEROES, SP_ZERO_PAGES_MAX, sp_nvme_dataset_range,
)
from sparrow._native.pool cimport PAGE, page_take
from sparrow._native.sys cimport memset
from sparrow._native.volume cimport REQ_PAGES_MAX, REQ_READ, REQ_WRITE, REQ_ZERO


cdef bint steps_is(const Slot *slot) noexcept nogil:
    return slot.opcode == SP_NVME_DATASET or slot.opcode == SP_NVME_WRITE_ZEROES or slot.opcode == SP_NVME_VERIFY


cdef inline bint range_get(const Slot *slot, uint32_t i, uint64_t *first, uint64_t *end) noexcept nogil:
    """One range of the list in bytes of the volume; False when it reaches beyond the end."""
    cdef const sp_nvme_dataset_range *row = <const sp_nvme_dataset_range *>(
        slot.pages[0] + SP_NVME_DATASET_RANGE_SIZE * i
    )
    cdef uint32_t block = slot.queue.client.volume.block_size
    cdef uint64_t capacity = slot.queue.client.volume.served * (PAGE // block)
    if row.slba > capacity or row.blocks > capacity - row.slba:
        return False
    first[0] = row.slba * block
    end[0] = (row.slba + row.blocks) * block
    return True


cdef void steps_begin(Slot *slot) noexcept nogil:
    cdef uint64_t first = 0, end = 0
    cdef uint32_t i
    # Its data is all here: whatever answers it from now on must not count it among those that collect.
    slot.state = SLOT_BLOCK
    slot.range_at = 0
    slot.step_at = 0
    slot.step_end = 0
    if slot.opcode == SP_NVME_DATASET:
        # All of the list is looked at before any of it is done.
        for i in range(slot.range_count):
            if not range_get(slot, i, &first, &end):
                send_status(slot, SP_NVME_SC_RANGE | SP_NVME_SC_DNR)
                return
        if slot.hints:
            slot.range_count = 0
    elif slot.opcode == SP_NVME_VERIFY:
        slot.step_at = slot.offset // PAGE * PAGE
        slot.step_end = (slot.offset + slot.span + PAGE - 1) // PAGE * PAGE
    else:
        slot.step_at = slot.offset
        slot.step_end = slot.offset + slot.span
    steps_next(slot)


cdef bint next_range(Slot *slot) noexcept nogil:
    """Dataset Management: the next range that is not empty. A volume never shrinks, so each still fits."""
    while slot.step_at == slot.step_end and slot.range_at < slot.range_count:
        range_get(slot, slot.range_at, &slot.step_at, &slot.step_end)
        slot.range_at += 1
    return slot.step_at != slot.step_end


cdef void part_of_page(Slot *slot) noexcept nogil:
    """What begins or ends within a page: that page is a step of its own."""
    cdef uint32_t skip = <uint32_t>(slot.step_at % PAGE)
    cdef uint32_t length = <uint32_t>min(<uint64_t>PAGE - skip, slot.step_end - slot.step_at)
    cdef uint8_t *page = page_take(&slot.queue.client.reactor.pool)
    if page == NULL:
        send_status(slot, SP_NVME_SC_INTERRUPTED)
        return
    memset(page, 0, PAGE)
    request_fill(slot, REQ_WRITE, slot.step_at // PAGE, 1)
    slot.req.pages[0] = page
    slot.req.skip = skip
    slot.req.cut = PAGE - skip - length
    slot.step_at += length
    client_submit(&slot.queue.client, &slot.req)


cdef void steps_next(Slot *slot) noexcept nogil:
    cdef uint64_t pages, first
    if not next_range(slot):
        send_status(slot, 0)
        return
    pages = (slot.step_end - slot.step_at) // PAGE
    if slot.step_at % PAGE != 0 or pages == 0:
        part_of_page(slot)
        return
    first = slot.step_at // PAGE
    if slot.opcode == SP_NVME_VERIFY:
        request_fill(slot, REQ_READ, first, <uint32_t>min(<uint64_t>REQ_PAGES_MAX, pages))
    else:
        request_fill(slot, REQ_ZERO, first, <uint32_t>min(<uint64_t>SP_ZERO_PAGES_MAX, pages))
    slot.step_at += <uint64_t>slot.req.page_count * PAGE
    client_submit(&slot.queue.client, &slot.req)
