"""A command whose data is all here: handed to the volume or to Python, and what became of it.

One that goes beyond a single request of the volume is carried out step by step (bulk.pyx); one that needs no data and
no log is answered at once.

Source: SBC-3, 5.2 (COMPARE AND WRITE); SAM-5, 5.3 (status).
"""

from libc.stdint cimport uint8_t, uint32_t

from sparrow._native.front.client cimport client_request, client_submit
from sparrow._native.front.iscsi.bulk cimport bulk_begin, bulk_compared, bulk_is, bulk_next
from sparrow._native.front.iscsi.manage cimport manage_check
from sparrow._native.front.iscsi.scsi cimport (
    CDB_COMPARE, CDB_OTHER, CDB_PREFETCH, CDB_READ, CDB_READY, CDB_WRITE, STATUS_ABORTED, STATUS_BUSY, STATUS_CONFLICT,
    STATUS_GOOD, sense_of,
)
from sparrow._native.front.iscsi.send cimport send_sense, send_status
from sparrow._native.front.iscsi.session cimport SLOT_BLOCK, SLOT_UPCALL, Session, Slot, slot_tag
from sparrow._native.front.iscsi.slots cimport slot_drop_pages, slot_free
from sparrow._native.front.pages cimport pages_get, pages_of
from sparrow._native.pool cimport PAGE, Pool, page_drop, page_take
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport EBUSY, ECANCELED, EILSEQ, ENOMEM, EPERM, sp_assert
from sparrow._native.volume cimport REQ_FLUSH, REQ_READ, REQ_WRITE, BlockReq


cdef void execute(Slot *slot) noexcept nogil:
    cdef Session *session = slot.session
    cdef BlockReq *req = &slot.req
    if slot.page_count != 0:
        session.collecting -= 1
    if slot.kind == CDB_OTHER:
        execute_upcall(slot)
        return
    if slot.kind == CDB_READY or slot.kind == CDB_PREFETCH or (
        (slot.kind == CDB_WRITE or slot.kind == CDB_COMPARE) and slot.want == 0
    ) or (
        slot.kind == CDB_READ and min(slot.length, slot.expected_in) == 0
    ):
        # Nothing moves. The gate is asked when the answer is built.
        send_status(slot, STATUS_GOOD)
        return
    client_request(&session.client, req, on_block, slot)
    if bulk_is(slot):
        bulk_begin(slot)
        return
    slot.state = SLOT_BLOCK
    req.first_page = slot.offset // PAGE
    if slot.kind == CDB_READ:
        req.kind = REQ_READ
        req.page_count = pages_of(slot.offset, min(slot.length, slot.expected_in))
    elif slot.kind == CDB_WRITE:
        req.kind = REQ_WRITE
        req.page_count = slot.page_count
        req.skip = slot.data_base
        req.cut = slot.page_count * PAGE - slot.data_base - slot.want
        # They are the volume's from here on.
        slot.page_count = 0
    elif slot.kind == CDB_COMPARE:
        if not compare_split(slot):
            return
    else:
        req.kind = REQ_FLUSH
        req.first_page = 0
        req.page_count = 0
    session.block_reqs += 1
    client_submit(&session.client, req)


cdef bint compare_split(Slot *slot) noexcept nogil:
    """What came is first what is compared, then what is written: that moves to pages of its own. False: answered."""
    cdef Session *session = slot.session
    cdef BlockReq *req = &slot.req
    cdef Pool *pool = &session.client.reactor.pool
    cdef uint32_t length = slot.want // 2
    cdef uint32_t skip = <uint32_t>(slot.offset % PAGE)
    cdef uint32_t pages = pages_of(skip, length)
    cdef uint8_t *first
    cdef uint8_t *second = NULL
    cdef uint32_t i
    if pool.free_count < pages:
        send_status(slot, STATUS_BUSY)
        return False
    first = page_take(pool)
    pages_get(req.pages, length, first + skip, min(length, PAGE - skip))
    if pages == 2:
        second = page_take(pool)
        pages_get(req.pages, length + PAGE - skip, second, length - (PAGE - skip))
    # At most a page: it lies in the first one.
    slot.kept = req.pages[0]
    for i in range(1, slot.page_count):
        page_drop(pool, req.pages[i])
    slot.page_count = 0
    req.pages[0] = first
    if pages == 2:
        req.pages[1] = second
    req.kind = REQ_WRITE
    req.page_count = pages
    req.skip = skip
    req.cut = pages * PAGE - skip - length
    req.compare = slot.kept
    return True


cdef void execute_upcall(Slot *slot) noexcept nogil:
    cdef Session *session = slot.session
    cdef uint32_t length = min(slot.have, slot.want)
    pages_get(slot.req.pages, 0, session.scratch, length)
    slot_drop_pages(slot)
    slot.state = SLOT_UPCALL
    session.client.hooks.upcall(session.client.hooks.owner, &session.client, slot_tag(slot), slot.bhs, session.scratch, length)


cdef void on_block(BlockReq *req, int rc) noexcept nogil:
    cdef Slot *slot = <Slot *>req.owner
    cdef Session *session = slot.session
    cdef uint32_t i
    sp_assert(slot.state == SLOT_BLOCK, b"a request is done twice")
    session.block_reqs -= 1
    if rc == 0 and req.kind == REQ_READ:
        slot.page_count = req.page_count
    if session.client.closing != 0 or (rc == -ECANCELED and not slot.tell):
        slot_free(slot)
        task_queue(session.client.reactor, &session.client.task)
    elif rc == -ECANCELED or (slot.tell and req.taken_back and (rc < 0 or slot.kind == CDB_READ)):
        # Whatever else kept it from being carried out, it was aborted before; what was read meanwhile is not sent.
        send_status(slot, STATUS_ABORTED)
    elif rc == 0 and bulk_is(slot):
        bulk_step_done(slot)
    elif rc == 0:
        if slot.kind == CDB_READ:
            slot.data_base = <uint32_t>(slot.offset % PAGE)
            slot.data_end = min(slot.length, slot.expected_in)
        send_status(slot, STATUS_GOOD)
    elif rc == -ENOMEM or rc == -EBUSY:
        send_status(slot, STATUS_BUSY)
    elif rc == -EPERM:
        send_status(slot, STATUS_CONFLICT)
    else:
        send_sense(slot, sense_of(session.client.volume, slot.kind, rc), -1, -1)
        if rc == -EILSEQ:
            # VALID, and in INFORMATION the offset of the first byte that differs. Source: SBC-3, 5.2.
            slot.sense[2] |= 0x80
            for i in range(4):
                slot.sense[5 + i] = <uint8_t>(req.bad_page >> (24 - 8 * i))
    if session.client.hooks.managing != 0:
        manage_check(session.client.hooks)


cdef void bulk_step_done(Slot *slot) noexcept nogil:
    # What VERIFY has read was compared with its sums; nothing of it is sent.
    cdef bint equal = bulk_compared(slot)
    slot_drop_pages(slot)
    if not equal:
        return
    if slot.stop:
        send_status(slot, STATUS_ABORTED)
    else:
        bulk_next(slot)
