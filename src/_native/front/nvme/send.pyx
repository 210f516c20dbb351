"""Building PDUs for the host and sending them, one vectored send per socket at a time.

PDUs are built when their send is put together, so SQHD follows the order on the wire, and the gate is asked at the last
moment: data of a Read and success are only built while it is open; when it is not, the command ends with the path's
status. Data goes from the pool's pages to the socket without a copy; pages are dropped when the send that carried them
is complete. All data of a Read is one C2HData PDU; without flow control it carries the completion, for there is no SQHD
to tell.

SQHD moves with completions, so that a host never has more commands under way than the queue has entries.

Source: NVMe/TCP 1.0, 3.4.1 (data), 3.6.2.7 (CapsuleResp), 3.6.2.9 (C2HData, SUCCESS), 3.6.2.10 (R2T).
"""

from libc.stdint cimport uint8_t, uint32_t

from sparrow._native.front.client cimport CLIENT_IOVS, client_may_read
from sparrow._native.front.nvme.queue cimport (
    OUT_LAST, OUT_NONE, OUT_R2T, OUT_ANSWER, PAGES_MAX, SEND_HEADS, SLOT_ANSWER, SLOT_COLLECT, Head, Queue,
    Slot, slot_tag,
)
from sparrow._native.front.nvme.slots cimport slot_free, slot_retire
from sparrow._native.front.nvme.status cimport path_status
from sparrow._native.front.stream cimport stream_add, stream_begin, stream_send
from sparrow._native.layout cimport (
    SP_NVME_C2H_DATA, SP_NVME_CAPSULE_RESP, SP_NVME_CAPSULE_RESPONSE_SIZE, SP_NVME_DATA_SIZE, SP_NVME_FLAG_DDGST,
    SP_NVME_FLAG_HDGST, SP_NVME_FLAG_LAST, SP_NVME_FLAG_SUCCESS, SP_NVME_R2T, SP_NVME_READ, SP_NVME_READY_SIZE,
    SP_NVME_SC_DNR, SP_NVME_SC_RESERVATION, SP_NVME_VERIFY,
    sp_nvme_capsule_response, sp_nvme_ch, sp_nvme_cqe, sp_nvme_data, sp_nvme_ready,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport memset, sp_crc32c


# ---------------------------------------------------------------- queue

cdef void send_queue(Slot *slot, uint32_t out) noexcept nogil:
    cdef Queue *queue = slot.queue
    if out != OUT_R2T:
        if slot.state == SLOT_COLLECT and slot.page_count != 0:
            queue.collecting -= 1
        slot.state = SLOT_ANSWER
    if slot.out == OUT_NONE:
        slot.next = NULL
        if queue.out_tail == NULL:
            queue.out_head = slot
        else:
            queue.out_tail.next = slot
        queue.out_tail = slot
    slot.out = out
    task_queue(queue.client.reactor, &queue.client.task)


cdef inline void pop(Queue *queue) noexcept nogil:
    cdef Slot *slot = queue.out_head
    queue.out_head = slot.next
    if queue.out_head == NULL:
        queue.out_tail = NULL
    slot.next = NULL
    slot.out = OUT_NONE


cdef void send_status(Slot *slot, uint32_t status) noexcept nogil:
    slot.status = status
    if status != 0:
        slot.read_bytes = 0
    send_queue(slot, OUT_ANSWER)


# ---------------------------------------------------------------- one PDU

cdef inline Head *head_next(Queue *queue, uint32_t kind, uint32_t hlen) noexcept nogil:
    cdef Head *head = &queue.heads[queue.head_count]
    cdef sp_nvme_ch *ch = <sp_nvme_ch *>head.bytes
    queue.head_count += 1
    memset(head, 0, sizeof(Head))
    ch.pdu_type = <uint8_t>kind
    ch.hlen = <uint8_t>hlen
    head.length = hlen
    if queue.config.header_digest:
        ch.flags = <uint8_t>SP_NVME_FLAG_HDGST
        head.length += 4
    ch.plen = head.length
    return head


cdef inline void store_digest(uint8_t *to, uint32_t crc) noexcept nogil:
    to[0] = <uint8_t>crc
    to[1] = <uint8_t>(crc >> 8)
    to[2] = <uint8_t>(crc >> 16)
    to[3] = <uint8_t>(crc >> 24)


cdef inline void head_seal(Queue *queue, Head *head) noexcept nogil:
    """The header is complete: digest, first piece."""
    cdef uint32_t hlen = (<sp_nvme_ch *>head.bytes).hlen
    if queue.config.header_digest:
        store_digest(head.bytes + hlen, sp_crc32c(0, head.bytes, hlen))
    stream_add(&queue.client, head.bytes, head.length)


cdef void build_r2t(Queue *queue, Slot *slot) noexcept nogil:
    cdef Head *head = head_next(queue, <uint32_t>SP_NVME_R2T, SP_NVME_READY_SIZE)
    cdef sp_nvme_ready *ready = <sp_nvme_ready *>head.bytes
    ready.cccid = queue.cids[slot.index]
    ready.ttag = slot_tag(slot)
    ready.r2to = 0
    ready.r2tl = slot.want
    head_seal(queue, head)


cdef void check_gate(Queue *queue, Slot *slot) noexcept nogil:
    """Never data, never success, while this replica may not serve. A Write may be durable all the same: that is allowed."""
    if slot.status == 0 and slot.gated and not queue.client.hooks.gate_open(queue.client.volume):
        slot.status = path_status(queue.client.volume)
        slot.read_bytes = 0
    if (
        slot.status == 0
        and (slot.opcode == SP_NVME_READ or slot.opcode == SP_NVME_VERIFY)
        and slot.gated
        and not client_may_read(&queue.client)
    ):
        slot.status = SP_NVME_SC_RESERVATION | SP_NVME_SC_DNR
        slot.read_bytes = 0


cdef void build_data(Queue *queue, Slot *slot) noexcept nogil:
    """C2HData with all of a Read's data."""
    cdef Head *head = head_next(queue, <uint32_t>SP_NVME_C2H_DATA, SP_NVME_DATA_SIZE)
    cdef sp_nvme_data *data = <sp_nvme_data *>head.bytes
    cdef uint32_t align = queue.config.data_align
    cdef uint32_t at = slot.read_base
    cdef uint32_t left = slot.read_bytes
    cdef uint32_t part, crc = 0
    cdef uint8_t *piece
    head.length = (head.length + align - 1) // align * align
    data.flags |= <uint8_t>SP_NVME_FLAG_LAST
    if not queue.config.flow_control:
        data.flags |= <uint8_t>SP_NVME_FLAG_SUCCESS
    if queue.config.data_digest:
        data.flags |= <uint8_t>SP_NVME_FLAG_DDGST
    data.pdo = <uint8_t>head.length
    data.plen = head.length + slot.read_bytes + (4 if queue.config.data_digest else 0)
    data.cccid = queue.cids[slot.index]
    data.datal = slot.read_bytes
    head_seal(queue, head)
    while left != 0:
        part = min(left, PAGE - at % PAGE)
        piece = slot.req.pages[at // PAGE] + at % PAGE
        if queue.config.data_digest:
            crc = sp_crc32c(crc, piece, part)
        stream_add(&queue.client, piece, part)
        at += part
        left -= part
    if queue.config.data_digest:
        store_digest(head.data_digest, crc)
        stream_add(&queue.client, head.data_digest, 4)


cdef void build_response(Queue *queue, Slot *slot) noexcept nogil:
    cdef Head *head = head_next(queue, <uint32_t>SP_NVME_CAPSULE_RESP, SP_NVME_CAPSULE_RESPONSE_SIZE)
    cdef sp_nvme_cqe *cqe = <sp_nvme_cqe *>(<sp_nvme_capsule_response *>head.bytes).cqe
    if queue.config.flow_control:
        cqe.sqhd = queue.sq_head
    cqe.cid = queue.cids[slot.index]
    cqe.status = <uint32_t>slot.status << 1
    head_seal(queue, head)


cdef void build_answer(Queue *queue, Slot *slot) noexcept nogil:
    check_gate(queue, slot)
    queue.sq_head = (queue.sq_head + 1) % queue.config.depth
    if slot.read_bytes != 0:
        build_data(queue, slot)
    if slot.read_bytes == 0 or queue.config.flow_control:
        build_response(queue, slot)
    slot_retire(slot)


# ---------------------------------------------------------------- one send

cdef void build(Queue *queue) noexcept nogil:
    cdef Slot *slot
    cdef uint32_t out
    queue.head_count = 0
    stream_begin(&queue.client)
    if queue.term_bytes != 0:
        # Nothing follows it, and what is queued has lost its meaning.
        stream_add(&queue.client, queue.term, queue.term_bytes)
        queue.last_built = True
        return
    while queue.out_head != NULL:
        slot = queue.out_head
        out = slot.out
        # Data and response have a header each; each page is a piece, and so are headers and digests.
        if queue.head_count + 2 > SEND_HEADS or queue.client.iov_count + PAGES_MAX + 4 > CLIENT_IOVS:
            return
        pop(queue)
        if out == OUT_R2T:
            build_r2t(queue, slot)
            continue
        build_answer(queue, slot)
        slot.next = queue.flying
        queue.flying = slot
        if out == OUT_LAST:
            queue.last_built = True
            return


cdef void send_pump(Queue *queue) noexcept nogil:
    if queue.client.send_op.busy or queue.last_built:
        return
    build(queue)
    stream_send(&queue.client)


cdef void send_done(Queue *queue) noexcept nogil:
    cdef Slot *slot
    while queue.flying != NULL:
        slot = queue.flying
        queue.flying = slot.next
        slot.next = NULL
        slot_free(slot)
