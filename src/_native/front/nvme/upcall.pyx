"""Commands of reservations: framed here, answered in Python.

    COLLECT -> UPCALL -> ANSWER

Python gets the first 48 bytes of the submission queue entry, which reach to command dword 11, and what came with it.
It is asked only while this replica serves, and its answer leaves only while that is still so, like every other; but
for a change that was logged, whose success says that it has committed, and that stays true.

Source: NVMe base 2.0, 7.2 to 7.5.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.front.nvme.queue cimport SLOT_UPCALL, Queue, Slot, slot_tag
from sparrow._native.front.nvme.send cimport send_status
from sparrow._native.front.nvme.slots cimport slot_drop_pages, slot_of
from sparrow._native.front.nvme.status cimport path_status
from sparrow._native.layout cimport (
    SP_NVME_RESERVATION_ACQUIRE, SP_NVME_RESERVATION_REGISTER, SP_NVME_RESERVATION_RELEASE, SP_NVME_RESERVATION_REPORT,
    SP_NVME_SC_INTERRUPTED, sp_nvme_sqe,
)
from sparrow._native.pool cimport PAGE, page_take
from sparrow._native.sys cimport memcpy


cdef bint upcall_is(uint32_t opcode) noexcept nogil:
    return (
        opcode == SP_NVME_RESERVATION_REGISTER or opcode == SP_NVME_RESERVATION_REPORT
        or opcode == SP_NVME_RESERVATION_ACQUIRE or opcode == SP_NVME_RESERVATION_RELEASE
    )


cdef uint64_t upcall_bytes(const sp_nvme_sqe *sqe) noexcept nogil:
    if sqe.opcode == SP_NVME_RESERVATION_REPORT:
        return 4 * (<uint64_t>sqe.cdw10 + 1)
    return 8 if sqe.opcode == SP_NVME_RESERVATION_RELEASE else 16


cdef void upcall_begin(Slot *slot) noexcept nogil:
    cdef Queue *queue = slot.queue
    # Its data is all here: whatever answers it from now on must not count it among those that collect.
    slot.state = SLOT_UPCALL
    if not queue.client.hooks.gate_open(queue.client.volume):
        send_status(slot, path_status(queue.client.volume))
        return
    queue.client.hooks.upcall(
        queue.client.hooks.owner, &queue.client, slot_tag(slot), slot.sqe, slot.pages[0] if slot.want != 0 else NULL,
        slot.want,
    )
    slot_drop_pages(slot)


cdef void queue_answer(
    Queue *queue, uint32_t tag, uint32_t status, const uint8_t *data, uint32_t length
) noexcept nogil:
    cdef Slot *slot = slot_of(queue, tag)
    if queue.client.closing != 0 or slot == NULL or slot.state != SLOT_UPCALL:
        return
    if slot.logged:
        slot.gated = False
    if status == 0 and length != 0:
        # Answers are small and rare: they may use the reserve.
        slot.req.pages[0] = page_take(&queue.client.reactor.pool) if length <= PAGE else NULL
        if slot.req.pages[0] == NULL:
            send_status(slot, SP_NVME_SC_INTERRUPTED)
            return
        memcpy(slot.req.pages[0], data, length)
        slot.read_count = 1
        slot.read_base = 0
        slot.read_bytes = length
    send_status(slot, status)
