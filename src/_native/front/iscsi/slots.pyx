"""The task table of a session: a fixed array of slots and a stack of the free ones."""

from libc.stdint cimport uint32_t

from sparrow._native.front.iscsi.session cimport (
    OUT_NONE, SLOT_COLLECT, SLOT_FREE, SLOT_MANAGE, SLOTS, Session, Slot, slot_tag,
)
from sparrow._native.front.pages cimport pages_drop, pages_take
from sparrow._native.front.stream cimport stream_wake
from sparrow._native.layout cimport SP_ISCSI_NO_TAG, sp_be32_get
from sparrow._native.pool cimport PAGE, Pool, page_drop, page_spare
from sparrow._native.sys cimport memcpy, sp_assert

cdef enum:
    IMMEDIATE = 0x40


cdef Slot *slot_take(Session *session) noexcept nogil:
    cdef Slot *slot
    if session.free_count == 0:
        return NULL
    session.free_count -= 1
    slot = &session.slots[session.free_slots[session.free_count]]
    sp_assert(slot.state == SLOT_FREE and slot.page_count == 0, b"a free slot holds something")
    session.client.hooks.serial += 1
    slot.serial = session.client.hooks.serial
    slot.state = SLOT_COLLECT
    slot.out = OUT_NONE
    slot.next = NULL
    slot.immediate = (session.head.opcode & IMMEDIATE) != 0
    slot.windowed = not slot.immediate
    slot.scsi = False
    slot.logged = False
    slot.kind = 0
    slot.itt = sp_be32_get(session.head.itt)
    slot.expected = 0
    slot.expected_in = 0
    slot.length = 0
    slot.status = 0
    slot.tell = False
    slot.want = 0
    slot.have = 0
    slot.solicited = 0
    slot.bursting = False
    slot.r2t_open = False
    slot.r2t_sn = 0
    slot.data_out_sn = 0
    slot.data_base = 0
    slot.data_at = 0
    slot.data_end = 0
    slot.data_sn = 0
    slot.span = 0
    slot.kept = NULL
    slot.beside = 0
    slot.broken = False
    slot.stop = False
    slot.sense_bytes = 0
    memcpy(slot.bhs, &session.head, 48)
    session.itts[slot.index] = slot.itt
    if slot.immediate:
        session.immediates += 1
    else:
        session.exp_cmd_sn += 1
        session.active += 1
    return slot


cdef void slot_retire(Slot *slot) noexcept nogil:
    cdef Session *session = slot.session
    if slot.windowed:
        session.active -= 1
        slot.windowed = False
    if slot.immediate:
        session.immediates -= 1
        slot.immediate = False
    session.itts[slot.index] = <uint32_t>SP_ISCSI_NO_TAG


cdef void slot_free(Slot *slot) noexcept nogil:
    cdef Session *session = slot.session
    cdef uint32_t i
    sp_assert(slot.state != SLOT_FREE and slot.out == OUT_NONE, b"a slot is freed while in use")
    if slot.state == SLOT_MANAGE:
        session.client.hooks.managing -= 1
    if slot.state == SLOT_COLLECT and slot.page_count != 0:
        session.collecting -= 1
    if session.sink == slot:
        session.sink = NULL
    slot_retire(slot)
    slot_drop_pages(slot)
    if slot.kept != NULL:
        page_drop(&session.client.reactor.pool, slot.kept)
        slot.kept = NULL
    for i in range(slot.beside):
        page_drop(&session.client.reactor.pool, slot.req.pages[1 + i])
    slot.beside = 0
    session.read_pages -= slot.read_pages
    slot.read_pages = 0
    slot.state = SLOT_FREE
    slot.generation = (slot.generation + 1) & 0xFFFFFF
    session.free_slots[session.free_count] = slot.index
    session.free_count += 1
    stream_wake(&session.client)


cdef Slot *slot_find(Session *session, uint32_t itt) noexcept nogil:
    cdef uint32_t i
    if itt == SP_ISCSI_NO_TAG:
        return NULL
    for i in range(<uint32_t>SLOTS):
        if session.itts[i] == itt:
            return &session.slots[i]
    return NULL


cdef Slot *slot_of(Session *session, uint32_t tag) noexcept nogil:
    cdef uint32_t index = tag & 0xFF
    if index >= SLOTS or session.slots[index].state == SLOT_FREE or slot_tag(&session.slots[index]) != tag:
        return NULL
    return &session.slots[index]


cdef bint slot_pages(Slot *slot, uint32_t length, bint spare) noexcept nogil:
    cdef Pool *pool = &slot.session.client.reactor.pool
    cdef uint32_t count = (length + PAGE - 1) // PAGE
    if pool.free_count < count or (spare and not page_spare(pool, count)):
        return False
    pages_take(pool, slot.req.pages, count)
    slot.page_count = count
    return True


cdef void slot_drop_pages(Slot *slot) noexcept nogil:
    pages_drop(&slot.session.client.reactor.pool, slot.req.pages, slot.page_count)
    slot.page_count = 0
