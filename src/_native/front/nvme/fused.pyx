"""Fused Compare and Write: the Compare's data becomes ``compare`` of the Write's request, so that looking and writing
are one step of the volume.

The two halves find each other by ``mate``. Neither is answered before both are settled: each has failed, or all of its
data is here. The Compare is answered first. A half that fails takes the other along with Command Aborted due to Failed
Fused Command; a Compare whose Write does not follow it ends with ... Missing Fused Command.

Source: NVMe base 2.0, 6.2 (fused operations); NVM command set 1.0, 2.1.4.2.2 (ACWU).
"""

from libc.stdint cimport uint32_t

from sparrow._native.front.client cimport client_submit
from sparrow._native.front.nvme.commands cimport request_fill, request_take_pages
from sparrow._native.front.nvme.queue cimport SLOT_COLLECT, SLOT_FUSED, Queue, Slot
from sparrow._native.front.nvme.send cimport send_status
from sparrow._native.front.nvme.status cimport status_of
from sparrow._native.layout cimport (
    SP_NVME_SC_ATOMIC, SP_NVME_SC_COMPARE, SP_NVME_SC_DNR, SP_NVME_SC_FIELD, SP_NVME_SC_FUSED_FAILED,
    SP_NVME_SC_FUSED_MISSING, sp_nvme_sqe,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.sys cimport EILSEQ
from sparrow._native.volume cimport REQ_WRITE


cdef inline bint settled(const Slot *slot) noexcept nogil:
    return slot.ready or slot.status != 0


cdef void fail(Slot *slot, uint32_t status) noexcept nogil:
    """Answer one half on its own."""
    slot.first = False
    slot.mate = NULL
    send_status(slot, status)


cdef void fused_first(Slot *slot) noexcept nogil:
    slot.first = True
    slot.queue.fused = slot
    if slot.span > PAGE:
        # One page, wherever it begins; told as ACWU.
        slot.status = SP_NVME_SC_ATOMIC | SP_NVME_SC_DNR


cdef void fused_second(Slot *slot, const sp_nvme_sqe *sqe) noexcept nogil:
    if slot.status == 0 and (slot.offset != slot.mate.offset or slot.span != slot.mate.span):
        slot.status = SP_NVME_SC_FIELD | SP_NVME_SC_DNR


cdef void fused_drop_first(Queue *queue) noexcept nogil:
    cdef Slot *first = queue.fused
    queue.fused = NULL
    if first.state == SLOT_COLLECT and not settled(first):
        # What it still waits for comes first: data that is asked for must find its command.
        first.status = SP_NVME_SC_FUSED_MISSING | SP_NVME_SC_DNR
        return
    fail(first, first.status if first.status != 0 else SP_NVME_SC_FUSED_MISSING | SP_NVME_SC_DNR)


cdef void fused_settle(Slot *slot) noexcept nogil:
    cdef Queue *queue = slot.queue
    cdef Slot *first = slot if slot.first else slot.mate
    cdef Slot *second = first.mate
    if slot.state == SLOT_COLLECT and slot.page_count != 0 and not slot.ready:
        queue.collecting -= 1
    slot.state = SLOT_FUSED
    if second == NULL:
        # Its Write is still to come, unless the next command was another one.
        if queue.fused != first:
            fail(first, first.status if first.status != 0 else SP_NVME_SC_FUSED_MISSING | SP_NVME_SC_DNR)
        return
    if not settled(first) or not settled(second) or first.state != SLOT_FUSED or second.state != SLOT_FUSED:
        return
    if first.status != 0 or second.status != 0:
        fail(first, first.status if first.status != 0 else SP_NVME_SC_FUSED_FAILED | SP_NVME_SC_DNR)
        fail(second, second.status if second.status != 0 else SP_NVME_SC_FUSED_FAILED | SP_NVME_SC_DNR)
        return
    request_fill(second, REQ_WRITE, second.offset // PAGE, second.page_count)
    request_take_pages(second, second.data_base, second.want)
    # At most a page: it lies in the first one of the Compare.
    second.req.compare = first.pages[0]
    client_submit(&queue.client, &second.req)


cdef void fused_done(Slot *slot, int rc) noexcept nogil:
    cdef Slot *first = slot.mate
    cdef uint32_t status = 0
    if rc == -EILSEQ:
        fail(first, SP_NVME_SC_COMPARE | SP_NVME_SC_DNR)
        fail(slot, SP_NVME_SC_FUSED_FAILED | SP_NVME_SC_DNR)
        return
    if rc != 0:
        status = status_of(slot.queue.client.volume, slot.opcode, rc)
    fail(first, status)
    fail(slot, status)
