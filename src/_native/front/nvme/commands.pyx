"""Commands of the host: the state of each from its capsule to its answer.

    COLLECT -> BLOCK -> ANSWER      COLLECT -> FUSED -> BLOCK -> ANSWER for a fused Compare and Write
    COLLECT -> UPCALL -> ANSWER for those of reservations (upcall.pyx)

Data comes in the capsule, or by H2CData PDUs that one R2T asks for, all of it at once; it is copied from the socket's
buffer into pages, taken for the whole command before it is accepted (front/pages.pxd). A queue that would wait for
pages too long answers Command Interrupted, which hosts try again.

A command that cannot be served gets its status and the connection goes on; a PDU that cannot be understood, data out of
place or more commands than the queue has entries end it (recv.pyx).

Source: NVMe base 2.0, 3.3.3 (entries), 6.2 (fused); NVM command set 1.0, 3.2; NVMe/TCP 1.0, 3.4.1 and 3.6.2.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.front.client cimport ENDED_LOGOUT, ENDED_PROTOCOL, client_request, client_submit
from sparrow._native.front.nvme.fused cimport fused_drop_first, fused_done, fused_first, fused_second, fused_settle
from sparrow._native.front.nvme.queue cimport (
    OUT_LAST, OUT_R2T, SLOT_BLOCK, SLOT_COLLECT, TRANSFER_MAX, Queue, Slot, queue_terminate,
)
from sparrow._native.front.nvme.send cimport send_queue, send_status
from sparrow._native.front.nvme.slots cimport (
    slot_drop_read, slot_free, slot_known, slot_of, slot_pages, slot_take,
)
from sparrow._native.front.nvme.status cimport status_of
from sparrow._native.front.nvme.steps cimport steps_begin, steps_is, steps_next
from sparrow._native.front.nvme.upcall cimport upcall_begin, upcall_bytes, upcall_is
from sparrow._native.front.pages cimport pages_awaited, pages_of
from sparrow._native.front.stream cimport stream_waited_ns
from sparrow._native.layout cimport (
    SP_NVME_COMPARE, SP_NVME_SC_ABORTED, SP_NVME_DATASET, SP_NVME_DATASET_RANGE_SIZE, SP_NVME_DATA_AT_DATAO,
    SP_NVME_FABRICS, SP_NVME_FABRICS_DISCONNECT, SP_NVME_FES_HEADER, SP_NVME_FES_RANGE, SP_NVME_FES_SEQUENCE,
    SP_NVME_FLAG_LAST, SP_NVME_FLUSH, SP_NVME_READ, SP_NVME_RESERVATION_REPORT, SP_NVME_SC_COMPARE, SP_NVME_SC_CONFLICT,
    SP_NVME_SC_DNR, SP_NVME_SC_FIELD, SP_NVME_SC_FUSED_MISSING, SP_NVME_SC_INTERRUPTED, SP_NVME_SC_NAMESPACE,
    SP_NVME_SC_OPCODE, SP_NVME_SC_PREEMPTED, SP_NVME_SC_RANGE, SP_NVME_SC_SGL_LENGTH, SP_NVME_SC_SGL_OFFSET,
    SP_NVME_SC_SGL_TYPE, SP_NVME_SC_TRANSIENT, SP_NVME_SGL_CAPSULE, SP_NVME_SGL_TRANSPORT, SP_NVME_VERIFY,
    SP_NVME_WRITE, SP_NVME_WRITE_ZEROES, sp_nvme_capsule_command, sp_nvme_connect, sp_nvme_data, sp_nvme_rw,
    sp_nvme_sqe,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport ECANCELED, memcmp, memcpy, sp_assert
from sparrow._native.volume cimport REQ_FLUSH, REQ_READ, REQ_WRITE, BlockReq

cdef enum:
    FUSE = 0x03                # of the flags byte
    FUSE_FIRST = 0x01
    FUSE_SECOND = 0x02
    PSDT = 0xC0
    PSDT_SGL = 0x40            # fabrics: SGLs, and nothing else
    NSID_ALL = 0xFFFFFFFF
    DEALLOCATE = 0x04          # AD of Dataset Management


# ---------------------------------------------------------------- taking a capsule apart

cdef uint32_t sgl_check(const sp_nvme_sqe *sqe, uint32_t need, bint exact, bint out, uint32_t there) noexcept nogil:
    """Does the descriptor tell of the data the command moves? Status, 0 when it does."""
    if sqe.sgl_type == SP_NVME_SGL_CAPSULE and out:
        if sqe.sgl_address != 0:
            return SP_NVME_SC_SGL_OFFSET | SP_NVME_SC_DNR
        if sqe.sgl_length > there:
            return SP_NVME_SC_SGL_LENGTH | SP_NVME_SC_DNR
    elif sqe.sgl_type != SP_NVME_SGL_TRANSPORT:
        return SP_NVME_SC_SGL_TYPE | SP_NVME_SC_DNR
    if sqe.sgl_length < need or (exact and sqe.sgl_length != need):
        return SP_NVME_SC_SGL_LENGTH | SP_NVME_SC_DNR
    return 0


cdef uint32_t decode_upcall(Slot *slot, const sp_nvme_sqe *sqe, uint32_t data_bytes) noexcept nogil:
    """What the namespace and the dwords say is Python's to look at."""
    cdef uint64_t need = upcall_bytes(sqe)
    cdef bint out = sqe.opcode != SP_NVME_RESERVATION_REPORT
    cdef uint32_t status
    if need > sqe.sgl_length or (out and sqe.sgl_length > PAGE):
        return SP_NVME_SC_SGL_LENGTH | SP_NVME_SC_DNR
    status = sgl_check(sqe, <uint32_t>need, False, out, data_bytes)
    memcpy(slot.sqe, sqe, sizeof(slot.sqe))
    if status == 0 and out:
        slot.want = sqe.sgl_length
    return status


cdef uint32_t decode(Queue *queue, Slot *slot, uint32_t data_bytes) noexcept nogil:
    """Fill in what the command is about; its status when it is refused. Order of the checks: the standard's figures of
    the entry, then the command's own."""
    cdef sp_nvme_capsule_command *capsule = <sp_nvme_capsule_command *>queue.head
    cdef sp_nvme_sqe *sqe = <sp_nvme_sqe *>capsule.sqe
    cdef sp_nvme_rw *rw = <sp_nvme_rw *>capsule.sqe
    cdef uint32_t block = queue.client.volume.block_size
    cdef uint64_t capacity = queue.client.volume.served * (PAGE // block)
    cdef uint64_t blocks = <uint64_t>rw.nlb + 1
    cdef uint32_t fuse = sqe.flags & FUSE
    cdef uint32_t status
    slot.opcode = sqe.opcode
    if sqe.flags & PSDT != PSDT_SGL or fuse == FUSE:
        return SP_NVME_SC_FIELD | SP_NVME_SC_DNR
    if (fuse == FUSE_FIRST and sqe.opcode != SP_NVME_COMPARE) or (fuse == FUSE_SECOND and sqe.opcode != SP_NVME_WRITE):
        return SP_NVME_SC_FIELD | SP_NVME_SC_DNR
    if fuse == FUSE_SECOND and slot.mate == NULL:
        return SP_NVME_SC_FUSED_MISSING | SP_NVME_SC_DNR
    if sqe.opcode == SP_NVME_FABRICS:
        if (<sp_nvme_connect *>sqe).fctype != SP_NVME_FABRICS_DISCONNECT:
            return SP_NVME_SC_OPCODE | SP_NVME_SC_DNR
        if (<sp_nvme_connect *>sqe).recfmt != 0:
            return SP_NVME_SC_FIELD | SP_NVME_SC_DNR
        return 0
    slot.gated = True
    if sqe.opcode == SP_NVME_FLUSH:
        return 0 if sqe.nsid == 1 or sqe.nsid == NSID_ALL else SP_NVME_SC_NAMESPACE | SP_NVME_SC_DNR
    if upcall_is(sqe.opcode):
        return decode_upcall(slot, sqe, data_bytes)
    if not (
        sqe.opcode == SP_NVME_READ or sqe.opcode == SP_NVME_WRITE or sqe.opcode == SP_NVME_COMPARE
        or sqe.opcode == SP_NVME_WRITE_ZEROES or sqe.opcode == SP_NVME_DATASET or sqe.opcode == SP_NVME_VERIFY
    ):
        return SP_NVME_SC_OPCODE | SP_NVME_SC_DNR
    if sqe.nsid != 1:
        return SP_NVME_SC_NAMESPACE | SP_NVME_SC_DNR
    if sqe.opcode == SP_NVME_DATASET:
        # Hosts may send a list longer than what it holds.
        slot.range_count = (sqe.cdw10 & 0xFF) + 1
        status = sgl_check(sqe, slot.range_count * SP_NVME_DATASET_RANGE_SIZE, False, True, data_bytes)
        if status == 0 and sqe.sgl_length > PAGE:
            status = SP_NVME_SC_SGL_LENGTH | SP_NVME_SC_DNR
        slot.want = sqe.sgl_length if status == 0 else 0
        # AD: the ranges may be deallocated; without it they carry hints only. Source: NVM command set 1.0, 3.2.3.
        slot.hints = not sqe.cdw11 & DEALLOCATE
        return status
    if rw.slba > capacity or blocks > capacity - rw.slba:
        return SP_NVME_SC_RANGE | SP_NVME_SC_DNR
    slot.offset = rw.slba * block
    slot.span = blocks * block
    if sqe.opcode == SP_NVME_WRITE_ZEROES or sqe.opcode == SP_NVME_VERIFY:
        return 0
    if slot.span > TRANSFER_MAX:
        return SP_NVME_SC_FIELD | SP_NVME_SC_DNR
    status = sgl_check(sqe, <uint32_t>slot.span, True, sqe.opcode != SP_NVME_READ, data_bytes)
    if status == 0 and sqe.opcode != SP_NVME_READ:
        slot.want = <uint32_t>slot.span
        # Data of a Write lies in its pages as it will in the volume's.
        slot.data_base = <uint32_t>(slot.offset % PAGE) if sqe.opcode == SP_NVME_WRITE else 0
    return status


cdef bint must_stall(Queue *queue, uint32_t pages, bint reads, bint *busy) noexcept nogil:
    """Are there no pages for this command now? `busy` is set when waiting would not bring them."""
    cdef uint64_t waited_ns = stream_waited_ns(&queue.client) if queue.collecting != 0 else 0
    return pages_awaited(&queue.client.reactor.pool, pages, queue.read_pages if reads else 0, waited_ns, busy)


cdef PduVerdict capsule_begin(Queue *queue, uint32_t data_bytes) noexcept nogil:
    cdef sp_nvme_sqe *sqe = <sp_nvme_sqe *>(<sp_nvme_capsule_command *>queue.head).sqe
    cdef bint conflict = slot_known(queue, sqe.cid)
    cdef Slot *first = queue.fused
    cdef uint32_t pages = 0, read_pages = 0
    cdef bint busy = False
    cdef Slot *slot = slot_take(queue, sqe.cid)
    if slot == NULL:
        queue_terminate(queue, <uint32_t>SP_NVME_FES_SEQUENCE, 0, ENDED_PROTOCOL)
        return PDU_WRONG
    if first != NULL and sqe.flags & FUSE == FUSE_SECOND:
        slot.mate = first
        first.mate = slot
    slot.status = SP_NVME_SC_CONFLICT | SP_NVME_SC_DNR if conflict else decode(queue, slot, data_bytes)
    if slot.status == 0:
        pages = pages_of(slot.data_base, slot.want)
        if slot.opcode == SP_NVME_READ or (slot.opcode == SP_NVME_COMPARE and not sqe.flags & FUSE):
            read_pages = pages_of(slot.offset, slot.span)
        if must_stall(queue, pages + read_pages, read_pages != 0, &busy):
            if slot.mate != NULL:
                slot.mate.mate = NULL
                slot.mate = NULL
            slot_free(slot)
            return PDU_STALL
        if busy:
            slot.status = SP_NVME_SC_INTERRUPTED
    # From here on the command is taken.
    if slot.mate != NULL:
        queue.fused = NULL
    elif first != NULL:
        fused_drop_first(queue)
    queue.sink = slot
    if slot.status != 0:
        slot.want = 0
    elif slot.want != 0:
        sp_assert(slot_pages(slot, slot.data_base + slot.want), b"spare pages are gone within a turn")
        queue.collecting += 1
    slot.read_pages = read_pages if slot.status == 0 else 0
    queue.read_pages += slot.read_pages
    if sqe.flags & FUSE == FUSE_FIRST and slot.status == 0:
        fused_first(slot)
    elif slot.mate != NULL:
        fused_second(slot, sqe)
    return PDU_TAKE


cdef PduVerdict data_begin(Queue *queue, uint32_t data_bytes) noexcept nogil:
    """H2CData: the next bytes of what one R2T asked for."""
    cdef sp_nvme_data *head = <sp_nvme_data *>queue.head
    cdef Slot *slot = slot_of(queue, head.ttag)
    if slot == NULL or slot.state != SLOT_COLLECT or not slot.asked or queue.cids[slot.index] != head.cccid:
        queue_terminate(queue, <uint32_t>SP_NVME_FES_SEQUENCE, 0, ENDED_PROTOCOL)
        return PDU_WRONG
    if head.datao != slot.have:
        queue_terminate(queue, <uint32_t>SP_NVME_FES_HEADER, SP_NVME_DATA_AT_DATAO, ENDED_PROTOCOL)
        return PDU_WRONG
    if data_bytes > slot.want - slot.have:
        queue_terminate(queue, <uint32_t>SP_NVME_FES_RANGE, 0, ENDED_PROTOCOL)
        return PDU_WRONG
    if ((head.flags & SP_NVME_FLAG_LAST) != 0) != (data_bytes == slot.want - slot.have):
        queue_terminate(queue, <uint32_t>SP_NVME_FES_HEADER, 1, ENDED_PROTOCOL)
        return PDU_WRONG
    queue.sink = slot
    return PDU_TAKE


cdef void pdu_end(Queue *queue) noexcept nogil:
    cdef Slot *slot = queue.sink
    cdef sp_nvme_sqe *sqe = <sp_nvme_sqe *>(<sp_nvme_capsule_command *>queue.head).sqe
    queue.sink = NULL
    if slot == NULL or (slot.asked and slot.have < slot.want):
        # What is on its way must find its command, also one that has failed meanwhile.
        return
    if slot.status != 0:
        settle(slot, slot.status)
        return
    if slot.have < slot.want:
        if sqe.sgl_type != SP_NVME_SGL_TRANSPORT or slot.have != 0:
            # A capsule with data has all of it.
            settle(slot, SP_NVME_SC_SGL_TYPE | SP_NVME_SC_DNR)
            return
        slot.asked = True
        send_queue(slot, OUT_R2T)
        return
    if slot.spoiled:
        settle(slot, SP_NVME_SC_TRANSIENT)
        return
    execute(slot)


cdef void settle(Slot *slot, uint32_t status) noexcept nogil:
    """A command failed before it began."""
    slot.status = status
    if slot.mate != NULL or slot.first:
        fused_settle(slot)
    else:
        send_status(slot, status)


# ---------------------------------------------------------------- carrying out

cdef void request_fill(Slot *slot, uint32_t kind, uint64_t first_page, uint32_t page_count) noexcept nogil:
    cdef BlockReq *req = &slot.req
    client_request(&slot.queue.client, req, on_block, slot)
    req.kind = kind
    req.first_page = first_page
    req.page_count = page_count
    slot.state = SLOT_BLOCK
    slot.queue.block_reqs += 1


cdef void request_take_pages(Slot *slot, uint32_t base, uint32_t length) noexcept nogil:
    cdef uint32_t i
    for i in range(slot.page_count):
        slot.req.pages[i] = slot.pages[i]
    slot.req.skip = base
    slot.req.cut = slot.page_count * PAGE - base - length
    # They are the volume's from here on.
    slot.page_count = 0


cdef void execute(Slot *slot) noexcept nogil:
    cdef Queue *queue = slot.queue
    if slot.page_count != 0:
        queue.collecting -= 1
    if slot.mate != NULL or slot.first:
        slot.ready = True
        fused_settle(slot)
        return
    if slot.opcode == SP_NVME_FABRICS:
        # Commands that are under way end with the connection: their answers are not waited for by who says Disconnect.
        queue.ending = True
        queue.why = ENDED_LOGOUT
        send_queue(slot, OUT_LAST)
        return
    if upcall_is(slot.opcode):
        upcall_begin(slot)
        return
    if steps_is(slot):
        steps_begin(slot)
        return
    if slot.opcode == SP_NVME_FLUSH:
        request_fill(slot, REQ_FLUSH, 0, 0)
    elif slot.opcode == SP_NVME_WRITE:
        request_fill(slot, REQ_WRITE, slot.offset // PAGE, slot.page_count)
        request_take_pages(slot, slot.data_base, slot.want)
    else:
        request_fill(slot, REQ_READ, slot.offset // PAGE, pages_of(slot.offset, slot.span))
    client_submit(&queue.client, &slot.req)


cdef void on_block(BlockReq *req, int rc) noexcept nogil:
    cdef Slot *slot = <Slot *>req.owner
    cdef Queue *queue = slot.queue
    sp_assert(slot.state == SLOT_BLOCK, b"a request is done twice")
    queue.block_reqs -= 1
    if rc == 0 and req.kind == REQ_READ:
        slot.read_count = req.page_count
    if queue.client.closing != 0 or (rc == -ECANCELED and not slot.aborting):
        slot_free(slot)
        task_queue(queue.client.reactor, &queue.client.task)
    elif rc == -ECANCELED or (slot.preempted and req.taken_back and (rc < 0 or req.kind == REQ_READ)):
        # Whatever else kept it from being carried out, it was aborted before; what was read meanwhile is not sent, nor
        # compared.
        send_status(slot, SP_NVME_SC_PREEMPTED if slot.preempted else SP_NVME_SC_ABORTED)
    elif slot.mate != NULL:
        fused_done(slot, rc)
    elif rc != 0:
        send_status(slot, status_of(queue.client.volume, slot.opcode, rc))
    elif steps_is(slot):
        # What Verify has read was compared with its sums; nothing of it is sent.
        slot_drop_read(slot)
        if slot.preempted:
            send_status(slot, SP_NVME_SC_PREEMPTED)
        else:
            steps_next(slot)
    elif slot.opcode == SP_NVME_COMPARE:
        send_status(slot, 0 if same(slot) else SP_NVME_SC_COMPARE | SP_NVME_SC_DNR)
    else:
        if slot.opcode == SP_NVME_READ:
            slot.read_base = <uint32_t>(slot.offset % PAGE)
            slot.read_bytes = <uint32_t>slot.span
        send_status(slot, 0)


cdef bint same(const Slot *slot) noexcept nogil:
    """Compare: is what was read what came? Pieces end where either side's page does."""
    cdef uint32_t left = slot.want
    cdef uint32_t a = 0
    cdef uint32_t b = <uint32_t>(slot.offset % PAGE)
    cdef uint32_t part
    while left != 0:
        part = min(left, min(PAGE - a % PAGE, PAGE - b % PAGE))
        if memcmp(slot.pages[a // PAGE] + a % PAGE, slot.req.pages[b // PAGE] + b % PAGE, part) != 0:
            return False
        a += part
        b += part
        left -= part
    return True
