"""The commands of a queue: a fixed array of slots and a stack of the free ones."""

from libc.stdint cimport uint16_t, uint32_t

from sparrow._native.front.nvme.queue cimport (
    DEPTH_MAX, NO_CID, OUT_NONE, PAGES_MAX, SLOT_COLLECT, SLOT_FREE, Queue, Slot, slot_tag,
)
from sparrow._native.front.pages cimport pages_drop, pages_take
from sparrow._native.front.stream cimport stream_wake
from sparrow._native.pool cimport PAGE, Pool, page_spare
from sparrow._native.sys cimport sp_assert


cdef Slot *slot_take(Queue *queue, uint16_t cid) noexcept nogil:
    cdef Slot *slot
    if queue.free_count == 0:
        return NULL
    queue.free_count -= 1
    slot = &queue.slots[queue.free_slots[queue.free_count]]
    sp_assert(slot.state == SLOT_FREE and slot.page_count == 0 and slot.read_count == 0, b"a free slot holds something")
    slot.state = SLOT_COLLECT
    slot.out = OUT_NONE
    slot.next = NULL
    slot.opcode = 0
    slot.status = 0
    slot.aborting = False
    slot.preempted = False
    slot.logged = False
    slot.gated = False
    slot.offset = 0
    slot.span = 0
    slot.want = 0
    slot.have = 0
    slot.data_base = 0
    slot.asked = False
    slot.spoiled = False
    slot.read_base = 0
    slot.read_bytes = 0
    slot.range_count = 0
    slot.mate = NULL
    slot.first = False
    slot.ready = False
    queue.cids[slot.index] = cid
    return slot


cdef void slot_retire(Slot *slot) noexcept nogil:
    slot.queue.cids[slot.index] = NO_CID


cdef void slot_free(Slot *slot) noexcept nogil:
    cdef Queue *queue = slot.queue
    sp_assert(slot.state != SLOT_FREE and slot.out == OUT_NONE, b"a slot is freed while in use")
    if slot.state == SLOT_COLLECT and slot.page_count != 0:
        queue.collecting -= 1
    if queue.sink == slot:
        queue.sink = NULL
    if queue.fused == slot:
        queue.fused = NULL
    if slot.mate != NULL:
        slot.mate.mate = NULL
        slot.mate = NULL
    slot_retire(slot)
    slot_drop_pages(slot)
    slot_drop_read(slot)
    queue.read_pages -= slot.read_pages
    slot.read_pages = 0
    slot.state = SLOT_FREE
    slot.generation += 1
    queue.free_slots[queue.free_count] = slot.index
    queue.free_count += 1
    stream_wake(&queue.client)


cdef bint slot_known(const Queue *queue, uint16_t cid) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t>DEPTH_MAX):
        if queue.cids[i] == cid:
            return True
    return False


cdef Slot *slot_of(Queue *queue, uint32_t tag) noexcept nogil:
    cdef Slot *slot = &queue.slots[tag & 0x7F]
    return slot if slot.state != SLOT_FREE and slot_tag(slot) == tag else NULL


cdef bint slot_pages(Slot *slot, uint32_t length) noexcept nogil:
    cdef Pool *pool = &slot.queue.client.reactor.pool
    cdef uint32_t count = (length + PAGE - 1) // PAGE
    sp_assert(count <= PAGES_MAX, b"a command larger than MDTS")
    if not page_spare(pool, count):
        return False
    pages_take(pool, slot.pages, count)
    slot.page_count = count
    return True


cdef void slot_drop_pages(Slot *slot) noexcept nogil:
    pages_drop(&slot.queue.client.reactor.pool, slot.pages, slot.page_count)
    slot.page_count = 0


cdef void slot_drop_read(Slot *slot) noexcept nogil:
    pages_drop(&slot.queue.client.reactor.pool, slot.req.pages, slot.read_count)
    slot.read_count = 0
