"""Building PDUs for the host and sending them, one vectored send per socket at a time.

PDUs are built when their send is put together, so SQHD follows the order on the wire, and the gate is asked at the last
moment: data of a Read and success are only built while it is open; when it is not, the command ends with the path's
status. Data goes from the pool's pages to the socket without a copy; pages are dropped when the send that carried them
is complete. All data of a Read is one C2HData PDU; without flow control it carries the completion, for there is no SQHD
to tell.

SQHD moves with completions, so that a host never has more commands under way than the queue has entries.

Source: NVMe/TCP 1.0, 3.4.1 (data), 3.6.2.7 (CapsuleResp), 3.6.2.9 (C2HData, SUCCESS), 3.6.2.10 (R2T).
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.front.client cimport ENDED_CLOSED, client_fail
from sparrow._native.front.nvme.queue cimport (
    OUT_LAST, OUT_NONE, OUT_R2T, OUT_ANSWER, PAGES_MAX, SEND_HEADS, SEND_IOVS, SLOT_ANSWER, SLOT_COLLECT, Head, Queue,
    Slot, slot_tag,
)
from sparrow._native.front.nvme.slots cimport slot_free, slot_retire
from sparrow._native.front.nvme.status cimport path_status
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_NVME_C2H_DATA, SP_NVME_CAPSULE_RESP, SP_NVME_CAPSULE_RESPONSE_SIZE, SP_NVME_DATA_SIZE, SP_NVME_FLAG_DDGST,
    SP_NVME_FLAG_HDGST, SP_NVME_FLAG_LAST, SP_NVME_FLAG_SUCCESS, SP_NVME_R2T, SP_NVME_READY_SIZE,
    sp_nvme_capsule_response, sp_nvme_ch, sp_nvme_cqe, sp_nvme_data, sp_nvme_ready,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport now_boot, task_queue
from sparrow._native.sys cimport EAGAIN, EINTR, memset, sp_crc32c


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

cdef inline void add(Queue *queue, void *data, uint32_t length) noexcept nogil:
    """One more piece of the send; pieces that touch in memory become one."""
    cdef uint32_t i = queue.iov_count
    if i != 0 and <uint8_t *>queue.iov[i - 1].iov_base + queue.iov[i - 1].iov_len == <uint8_t *>data:
        queue.iov[i - 1].iov_len += length
        return
    queue.iov[i].iov_base = data
    queue.iov[i].iov_len = length
    queue.iov_count = i + 1


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
    add(queue, head.bytes, head.length)


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
        add(queue, piece, part)
        at += part
        left -= part
    if queue.config.data_digest:
        store_digest(head.data_digest, crc)
        add(queue, head.data_digest, 4)


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
    queue.iov_count = 0
    queue.iov_done = 0
    if queue.term_bytes != 0:
        # Nothing follows it, and what is queued has lost its meaning.
        add(queue, queue.term, queue.term_bytes)
        queue.last_built = True
        return
    while queue.out_head != NULL:
        slot = queue.out_head
        out = slot.out
        # Data and response have a header each; each page is a piece, and so are headers and digests.
        if queue.head_count + 2 > SEND_HEADS or queue.iov_count + PAGES_MAX + 4 > SEND_IOVS:
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


cdef void submit(Queue *queue) noexcept nogil:
    memset(&queue.msg, 0, sizeof(queue.msg))
    queue.msg.msg_iov = &queue.iov[queue.iov_done]
    queue.msg.msg_iovlen = queue.iov_count - queue.iov_done
    queue.client.reactor.io.send(
        &queue.client.reactor.io, &queue.client.send_op, queue.client.fd, &queue.msg
    )


cdef void send_pump(Queue *queue) noexcept nogil:
    if queue.client.send_op.busy or queue.last_built:
        return
    build(queue)
    if queue.iov_count != 0:
        queue.client.send_op.done = on_sent
        queue.client.send_op.owner = queue
        queue.sent_ns = now_boot(queue.client.reactor)
        submit(queue)


cdef void landed(Queue *queue) noexcept nogil:
    """The send that was under way is complete."""
    cdef Slot *slot
    while queue.flying != NULL:
        slot = queue.flying
        queue.flying = slot.next
        slot.next = NULL
        slot_free(slot)


cdef void on_sent(Op *op, int32_t res) noexcept nogil:
    cdef Queue *queue = <Queue *>op.owner
    cdef uint64_t left
    cdef uint32_t i
    task_queue(queue.client.reactor, &queue.client.task)
    if queue.client.closing != 0:
        return
    if res == -EAGAIN or res == -EINTR:
        submit(queue)
        return
    if res <= 0:
        client_fail(&queue.client, ENDED_CLOSED)
        return
    queue.sent_ns = now_boot(queue.client.reactor)
    left = <uint64_t>res
    while queue.iov_done < queue.iov_count:
        i = queue.iov_done
        if left < queue.iov[i].iov_len:
            queue.iov[i].iov_base = <uint8_t *>queue.iov[i].iov_base + left
            queue.iov[i].iov_len -= left
            submit(queue)
            return
        left -= queue.iov[i].iov_len
        queue.iov_done += 1
    landed(queue)
