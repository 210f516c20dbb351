"""UNMAP, WRITE SAME and VERIFY: one request of the volume after the other, so that what one command holds is bounded.

Each step is one entry of the log, or one read; none of these commands promises more than that of each block. A zero
block makes a zero entry, whether UNMAP is set or not: a page of zeros has no place to keep. A step that is in the log
cannot be taken back, so a command that is aborted ends after the step under way, with TASK ABORTED.

Source: SBC-3, 5.28 (UNMAP), 5.43 and 5.44 (WRITE SAME), 5.29 and 5.31 (VERIFY).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.front.client cimport client_submit
from sparrow._native.front.iscsi.scsi cimport (
    CDB_SAME, CDB_UNMAP, CDB_VERIFY, SENSE_FIELD, SENSE_LIST_FIELD, SENSE_MISCOMPARE, STATUS_BUSY, STATUS_GOOD,
    UNMAP_PAGES_MAX, unmap_count, unmap_range,
)
from sparrow._native.front.iscsi.send cimport send_sense, send_status
from sparrow._native.front.iscsi.session cimport SLOT_BLOCK, Session, Slot
from sparrow._native.front.iscsi.slots cimport slot_drop_pages
from sparrow._native.layout cimport SP_ZERO_PAGES_MAX
from sparrow._native.pool cimport PAGE, page_hold, page_take
from sparrow._native.sys cimport memcmp, memcpy, memset
from sparrow._native.volume cimport REQ_PAGES_MAX, REQ_READ, REQ_WRITE, REQ_ZERO, BlockReq

cdef enum:
    DESCRIPTOR = 16


cdef bint bulk_is(const Slot *slot) noexcept nogil:
    return slot.kind == CDB_UNMAP or slot.kind == CDB_SAME or slot.kind == CDB_VERIFY


cdef void bulk_begin(Slot *slot) noexcept nogil:
    cdef uint32_t sense = 0
    # Its data is all here: whatever answers it from now on must not count it among those that collect.
    slot.state = SLOT_BLOCK
    slot.step_at = 0
    slot.step_end = 0
    slot.range_at = 0
    slot.range_count = 0
    if slot.kind == CDB_UNMAP:
        sense = begin_unmap(slot)
    elif slot.kind == CDB_SAME:
        sense = begin_same(slot)
    else:
        begin_verify(slot)
    if sense != 0:
        send_sense(slot, sense, 1 if sense == SENSE_FIELD else -1, -1)
        return
    bulk_next(slot)


cdef uint32_t begin_unmap(Slot *slot) noexcept nogil:
    """All of the list is looked at before any of it is done."""
    cdef Session *session = slot.session
    cdef uint64_t first = 0, end = 0, total = 0
    cdef uint32_t sense
    cdef uint32_t i
    if slot.want == 0:
        return 0
    sense = unmap_count(slot.req.pages[0], slot.want, &slot.range_count)
    for i in range(slot.range_count if sense == 0 else 0):
        sense = unmap_range(slot.req.pages[0] + 8 + DESCRIPTOR * i, session.client.volume, &first, &end)
        if sense != 0:
            break
        total += end - first
        if total > <uint64_t>UNMAP_PAGES_MAX * PAGE:
            sense = SENSE_LIST_FIELD
            break
    keep(slot)
    return sense


cdef uint32_t begin_same(Slot *slot) noexcept nogil:
    """A page full of the block, or none when it is zeros."""
    cdef uint32_t block = slot.session.client.volume.block_size
    cdef uint8_t *zeros = slot.session.client.reactor.pool.zero_page
    cdef uint32_t at = block
    if slot.length != 0 and slot.want < block:
        return SENSE_FIELD
    slot.step_at = slot.offset
    slot.step_end = slot.offset + slot.span
    if slot.want != 0:
        if memcmp(slot.req.pages[0], zeros, block) != 0:
            while at < PAGE:
                memcpy(slot.req.pages[0] + at, slot.req.pages[0], block)
                at += block
            keep(slot)
        else:
            slot_drop_pages(slot)
    return 0


cdef void begin_verify(Slot *slot) noexcept nogil:
    """With data, one page after the other is read and compared; what came moves aside for the page that is read."""
    cdef BlockReq *req = &slot.req
    cdef uint32_t i
    slot.step_at = slot.offset // PAGE * PAGE
    slot.step_end = (slot.offset + slot.span + PAGE - 1) // PAGE * PAGE
    if slot.want == 0:
        return
    if slot.same:
        keep(slot)
        return
    slot.beside = slot.page_count
    slot.page_count = 0
    if slot.beside == REQ_PAGES_MAX:
        # One more than there is room for beside the page that is read.
        slot.beside -= 1
        slot.kept = req.pages[slot.beside]
    for i in range(slot.beside, 0, -1):
        req.pages[i] = req.pages[i - 1]


cdef uint32_t differs(const uint8_t *one, const uint8_t *other, uint32_t length) noexcept nogil:
    """Offset of the first byte that is not the same; `length` when all are."""
    cdef uint32_t i
    if memcmp(one, other, length) == 0:
        return length
    for i in range(length):
        if one[i] != other[i]:
            return i
    return length


cdef bint bulk_compared(Slot *slot) noexcept nogil:
    """The page just read, from where the command begins to where it ends in it, with what was sent for it. MISCOMPARE
    tells the offset of the first byte that differs in what was sent. Source: SBC-3, 4.5.6."""
    cdef BlockReq *req = &slot.req
    cdef uint64_t first = req.first_page * PAGE
    cdef uint32_t start = 0
    cdef uint32_t end = PAGE
    cdef uint32_t block = slot.session.client.volume.block_size
    cdef uint32_t at, length, found
    cdef uint64_t where = 0
    cdef const uint8_t *sent
    cdef uint32_t i
    if slot.kind != CDB_VERIFY or slot.want == 0:
        return True
    if first < slot.offset:
        start = <uint32_t>(slot.offset - first)
    if first + PAGE > slot.offset + slot.span:
        end = <uint32_t>(slot.offset + slot.span - first)
    at = start
    while at < end:
        if slot.same:
            length = block
            sent = slot.kept
        else:
            length = end - at
            i = <uint32_t>(first // PAGE - slot.offset // PAGE)
            sent = (req.pages[1 + i] if i < slot.beside else slot.kept) + at
        found = differs(req.pages[0] + at, sent, length)
        if found != length:
            where = found if slot.same else first + at + found - slot.offset
            send_sense(slot, SENSE_MISCOMPARE, -1, -1)
            slot.sense[2] |= 0x80
            for i in range(4):
                slot.sense[5 + i] = <uint8_t>(where >> (24 - 8 * i))
            return False
        at += length
    return True


cdef void keep(Slot *slot) noexcept nogil:
    """The command's page stays with it while req.pages serve its steps."""
    slot.kept = slot.req.pages[0]
    slot.page_count = 0


cdef bint next_range(Slot *slot) noexcept nogil:
    """UNMAP: the next range that is not empty."""
    while slot.step_at == slot.step_end and slot.range_at < slot.range_count:
        unmap_range(
            slot.kept + 8 + DESCRIPTOR * slot.range_at, slot.session.client.volume, &slot.step_at, &slot.step_end
        )
        slot.range_at += 1
    return slot.step_at != slot.step_end


cdef bint part_of_page(Slot *slot) noexcept nogil:
    """What begins or ends within a page: that page is a step of its own. False without a page of the pool."""
    cdef BlockReq *req = &slot.req
    cdef uint32_t skip = <uint32_t>(slot.step_at % PAGE)
    cdef uint32_t length = <uint32_t>min(<uint64_t>PAGE - skip, slot.step_end - slot.step_at)
    req.pages[0] = page_take(&slot.session.client.reactor.pool)
    if req.pages[0] == NULL:
        return False
    # A page full of the block has it at every offset of a block.
    if slot.kind == CDB_SAME and slot.kept != NULL:
        memcpy(req.pages[0], slot.kept, PAGE)
    else:
        memset(req.pages[0], 0, PAGE)
    req.kind = REQ_WRITE
    req.page_count = 1
    req.skip = skip
    req.cut = PAGE - skip - length
    slot.step_at += length
    return True


cdef void bulk_next(Slot *slot) noexcept nogil:
    cdef Session *session = slot.session
    cdef BlockReq *req = &slot.req
    cdef uint64_t pages
    cdef uint32_t i
    if not next_range(slot):
        send_status(slot, STATUS_GOOD)
        return
    pages = (slot.step_end - slot.step_at) // PAGE
    req.first_page = slot.step_at // PAGE
    req.skip = 0
    req.cut = 0
    if slot.step_at % PAGE != 0 or pages == 0:
        if not part_of_page(slot):
            send_status(slot, STATUS_BUSY)
            return
    elif slot.kind == CDB_VERIFY:
        req.kind = REQ_READ
        req.page_count = 1 if slot.want != 0 else <uint32_t>min(<uint64_t>REQ_PAGES_MAX, pages)
        slot.step_at += <uint64_t>req.page_count * PAGE
    elif slot.kind == CDB_SAME and slot.kept != NULL:
        req.kind = REQ_WRITE
        req.page_count = <uint32_t>min(<uint64_t>REQ_PAGES_MAX, pages)
        slot.step_at += <uint64_t>req.page_count * PAGE
        for i in range(req.page_count):
            page_hold(&session.client.reactor.pool, slot.kept)
            req.pages[i] = slot.kept
    else:
        req.kind = REQ_ZERO
        req.page_count = <uint32_t>min(<uint64_t>SP_ZERO_PAGES_MAX, pages)
        slot.step_at += <uint64_t>req.page_count * PAGE
    slot.state = SLOT_BLOCK
    session.block_reqs += 1
    client_submit(&session.client, req)
