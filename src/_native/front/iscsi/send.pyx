"""Building PDUs for the initiator and sending them, one vectored send per socket at a time.

PDUs are built when their send is put together, so StatSN follows the order on the wire, MaxCmdSN is fresh, and the
gate is asked at the last moment: data of a READ and GOOD are only built while it is open. A READ of many PDUs asks
again for each; when the gate closes in between the command ends with the path's sense. Data goes from the pool's
pages to the socket without a copy; pages are dropped when the send that carried the last of them is complete.

Source: RFC 7143, 11.4 (SCSI Response), 11.7 (Data-In), 11.8 (R2T), 11.19 (NOP-In), 4.2.2 (numbering).
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t

from sparrow._native.front.client cimport CLIENT_IOVS, ENDED_LOGOUT, client_fail, client_may_read
from sparrow._native.front.iscsi.scsi cimport (
    CDB_OTHER, CDB_READ, CDB_VERIFY, STATUS_CHECK, STATUS_CONFLICT, STATUS_GOOD, path_sense, sense_build,
)
from sparrow._native.front.iscsi.session cimport (
    OUT_LAST, OUT_NONE, OUT_R2T, OUT_SCSI, SEND_HEADS, SLOT_ANSWER,
    SLOT_COLLECT, SLOT_MANAGE, Head, Session, Slot, slot_tag,
)
from sparrow._native.front.iscsi.slots cimport slot_free, slot_retire
from sparrow._native.front.stream cimport stream_add, stream_begin, stream_send
from sparrow._native.layout cimport (
    SP_ISCSI_DATA_IN, SP_ISCSI_NOP_IN, SP_ISCSI_NO_TAG, SP_ISCSI_R2T, SP_ISCSI_RESPONSE, sp_be24_make, sp_be32_make,
    sp_iscsi_answer, sp_iscsi_ready, sp_iscsi_scsi_data_in, sp_iscsi_scsi_response,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport memcpy, memset, sp_crc32c
from sparrow._native.volume cimport REQ_PAGES_MAX

cdef enum:
    FINAL = 0x80
    OVERFLOW = 0x04
    UNDERFLOW = 0x02
    HAS_STATUS = 0x01
    MAINTENANCE_IN = 0xA3
    REPORT_GROUPS = 0x0A
    ASYNC_MESSAGE = 0x32
    ASYNC_LOGOUT = 1           # AsyncEvent: the target requests logout
    PING_TAG = 0x50            # any but the reserved one: it asks for an answer


# ---------------------------------------------------------------- queue

cdef void send_queue(Slot *slot, uint32_t out) noexcept nogil:
    cdef Session *session = slot.session
    if slot.state == SLOT_MANAGE:
        session.client.hooks.managing -= 1
    if out != OUT_R2T:
        if slot.state == SLOT_COLLECT and slot.page_count != 0:
            session.collecting -= 1
        slot.state = SLOT_ANSWER
    if slot.out == OUT_NONE:
        slot.next = NULL
        if session.out_tail == NULL:
            session.out_head = slot
        else:
            session.out_tail.next = slot
        session.out_tail = slot
    slot.out = out
    task_queue(session.client.reactor, &session.client.task)


cdef inline void pop(Session *session) noexcept nogil:
    cdef Slot *slot = session.out_head
    session.out_head = slot.next
    if session.out_head == NULL:
        session.out_tail = NULL
    slot.next = NULL
    slot.out = OUT_NONE


cdef void send_remove(Slot *slot) noexcept nogil:
    cdef Session *session = slot.session
    cdef Slot *before = session.out_head
    if slot.out == OUT_NONE:
        return
    if before == slot:
        pop(session)
        return
    while before.next != slot:
        before = before.next
    before.next = slot.next
    if session.out_tail == slot:
        session.out_tail = before
    slot.next = NULL
    slot.out = OUT_NONE


cdef void send_status(Slot *slot, uint32_t status) noexcept nogil:
    slot.status = status
    if status != STATUS_GOOD:
        slot.data_end = slot.data_at
    send_queue(slot, OUT_SCSI)


cdef void send_sense(Slot *slot, uint32_t sense, int32_t field, int32_t bit) noexcept nogil:
    slot.sense_bytes = sense_build(slot.sense, sense, field, bit)
    send_status(slot, STATUS_CHECK)


# ---------------------------------------------------------------- one PDU

cdef inline Head *head_next(Session *session, uint32_t opcode) noexcept nogil:
    cdef Head *head = &session.heads[session.head_count]
    session.head_count += 1
    memset(head, 0, sizeof(Head))
    head.bhs[0] = <uint8_t>opcode
    head.bhs[1] = FINAL
    return head


cdef inline void store_digest(uint8_t *to, uint32_t crc) noexcept nogil:
    # Least significant byte first on the wire. Source: RFC 7143, 13.1 and its examples in RFC 3720, B.4.
    to[0] = <uint8_t>crc
    to[1] = <uint8_t>(crc >> 8)
    to[2] = <uint8_t>(crc >> 16)
    to[3] = <uint8_t>(crc >> 24)


cdef inline void number_answer(Session *session, sp_iscsi_answer *bhs, bint advance) noexcept nogil:
    bhs.stat_sn = sp_be32_make(session.stat_sn)
    if advance:
        session.stat_sn += 1
    bhs.exp_cmd_sn = sp_be32_make(session.exp_cmd_sn)
    bhs.max_cmd_sn = sp_be32_make(session.exp_cmd_sn + session.config.queue_depth - session.active - 1)


cdef inline void head_seal(Session *session, Head *head, uint32_t data_bytes) noexcept nogil:
    """The header is complete: length, digest, first piece."""
    (<sp_iscsi_answer *>head.bhs).data_bytes = sp_be24_make(data_bytes)
    if session.config.header_digest:
        store_digest(head.header_digest, sp_crc32c(0, head.bhs, 48))
        stream_add(&session.client, head.bhs, 52)
    else:
        stream_add(&session.client, head.bhs, 48)


cdef inline void data_seal(Session *session, Head *head, uint32_t data_bytes, uint32_t crc) noexcept nogil:
    """After the last piece of data: padding and digest, which covers the padding."""
    cdef uint32_t pad = (0 - data_bytes) & 3
    if data_bytes == 0:
        return
    if session.config.data_digest:
        store_digest(head.tail + pad, sp_crc32c(crc, head.tail, pad))
        stream_add(&session.client, head.tail, pad + 4)
    else:
        stream_add(&session.client, head.tail, pad)


cdef void put_inline(Session *session, Head *head, uint8_t *data, uint32_t length) noexcept nogil:
    """A header and a data segment that lies in one piece."""
    cdef uint32_t crc = 0
    head_seal(session, head, length)
    stream_add(&session.client, data, length)
    if session.config.data_digest:
        crc = sp_crc32c(0, data, length)
    data_seal(session, head, length, crc)


cdef void put_pages(Session *session, Head *head, Slot *slot, uint32_t at, uint32_t length) noexcept nogil:
    """A header and a slice of the slot's pages, from byte `at` of them."""
    cdef uint32_t left = length
    cdef uint32_t part, crc = 0
    cdef uint8_t *data
    head_seal(session, head, length)
    while left != 0:
        part = min(left, PAGE - at % PAGE)
        data = slot.req.pages[at // PAGE] + at % PAGE
        if session.config.data_digest:
            crc = sp_crc32c(crc, data, part)
        stream_add(&session.client, data, part)
        at += part
        left -= part
    data_seal(session, head, length, crc)


# ---------------------------------------------------------------- by kind

cdef void build_ping(Session *session) noexcept nogil:
    cdef Head *head = head_next(session, <uint32_t>SP_ISCSI_NOP_IN)
    cdef sp_iscsi_answer *bhs = <sp_iscsi_answer *>head.bhs
    bhs.itt = sp_be32_make(<uint32_t>SP_ISCSI_NO_TAG)
    bhs.ttt = sp_be32_make(PING_TAG)
    # Carries the next StatSN without using it. Source: RFC 7143, 11.19.1.
    number_answer(session, bhs, False)
    head_seal(session, head, 0)
    session.ping_queued = False


cdef void build_leave(Session *session) noexcept nogil:
    """Asynchronous Message: the target requests logout, within so many seconds. Source: RFC 7143, 11.9."""
    cdef Head *head = head_next(session, ASYNC_MESSAGE)
    cdef sp_iscsi_answer *bhs = <sp_iscsi_answer *>head.bhs
    bhs.itt = sp_be32_make(<uint32_t>SP_ISCSI_NO_TAG)
    number_answer(session, bhs, True)
    head.bhs[36] = ASYNC_LOGOUT
    head.bhs[42] = <uint8_t>(session.leave_s >> 8)
    head.bhs[43] = <uint8_t>session.leave_s
    head_seal(session, head, 0)
    session.leave_s = 0


cdef void build_r2t(Session *session, Slot *slot) noexcept nogil:
    cdef Head *head = head_next(session, <uint32_t>SP_ISCSI_R2T)
    cdef sp_iscsi_ready *bhs = <sp_iscsi_ready *>head.bhs
    memcpy(bhs.lun, slot.bhs + 8, 8)
    bhs.itt = sp_be32_make(slot.itt)
    bhs.ttt = sp_be32_make(slot_tag(slot))
    number_answer(session, <sp_iscsi_answer *>bhs, False)
    bhs.r2t_sn = sp_be32_make(slot.r2t_sn)
    bhs.offset = sp_be32_make(slot.have)
    bhs.desired_bytes = sp_be32_make(slot.solicited - slot.have)
    slot.r2t_sn += 1
    head_seal(session, head, 0)


cdef uint32_t residual(const Slot *slot, uint32_t *count) noexcept nogil:
    """Flag and count: what was expected against what the command moves, or did move when it failed."""
    cdef uint32_t moved = slot.length
    if slot.status != STATUS_GOOD:
        moved = slot.data_at if slot.expected_in != 0 else min(slot.have, slot.expected)
    if moved < slot.expected:
        count[0] = slot.expected - moved
        return UNDERFLOW
    if moved > slot.expected:
        count[0] = moved - slot.expected
        return OVERFLOW
    count[0] = 0
    return 0


cdef void check_gate(Session *session, Slot *slot) noexcept nogil:
    """Never data, never GOOD, while this replica may not serve. A WRITE may be durable all the same: that is allowed."""
    if slot.status != STATUS_GOOD or slot.kind == CDB_OTHER:
        return
    if session.client.hooks.gate_open(session.client.volume):
        if (slot.kind == CDB_READ or slot.kind == CDB_VERIFY) and not client_may_read(&session.client):
            slot.status = STATUS_CONFLICT
            slot.data_end = slot.data_at
        return
    slot.status = STATUS_CHECK
    slot.sense_bytes = sense_build(slot.sense, path_sense(session.client.volume), -1, -1)
    slot.data_end = slot.data_at


cdef void check_group(Session *session, Slot *slot) noexcept nogil:
    """A port group was called optimized when its answer was made; while the gate is closed it is in transition.

    Source: SPC-4, 6.37 (REPORT TARGET PORT GROUPS), table 303.
    """
    cdef const uint8_t *cdb = slot.bhs + 32
    cdef uint32_t at = 8 if cdb[1] >> 5 == 1 else 4
    cdef uint8_t *state
    if cdb[0] != MAINTENANCE_IN or cdb[1] & 0x1F != REPORT_GROUPS or slot.status != STATUS_GOOD:
        return
    if slot.data_end <= at or session.client.hooks.gate_open(session.client.volume):
        return
    state = slot.req.pages[0] + at
    if state[0] & 0x0F == 0:
        state[0] |= 0x0F


cdef void build_response(Session *session, Slot *slot) noexcept nogil:
    cdef Head *head = head_next(session, <uint32_t>SP_ISCSI_RESPONSE)
    cdef sp_iscsi_scsi_response *bhs = <sp_iscsi_scsi_response *>head.bhs
    cdef uint32_t count
    slot_retire(slot)
    bhs.flags = <uint8_t>(FINAL | residual(slot, &count))
    bhs.status = <uint8_t>slot.status
    bhs.itt = sp_be32_make(slot.itt)
    number_answer(session, <sp_iscsi_answer *>bhs, True)
    bhs.exp_data_sn = sp_be32_make(slot.data_sn + slot.r2t_sn)
    bhs.residual = sp_be32_make(count)
    put_inline(session, head, slot.sense, slot.sense_bytes)


cdef bint build_scsi(Session *session, Slot *slot) noexcept nogil:
    """Data-In PDUs and the status; False when the send is full before the end."""
    cdef Head *head
    cdef sp_iscsi_scsi_data_in *bhs
    cdef uint32_t burst, length, count
    while True:
        if session.head_count == SEND_HEADS or session.client.iov_count + REQ_PAGES_MAX + 4 > CLIENT_IOVS:
            return False
        check_gate(session, slot)
        if slot.data_at == 0 and slot.kind == CDB_OTHER:
            check_group(session, slot)
        if slot.data_at == slot.data_end:
            build_response(session, slot)
            return True
        burst = session.config.max_burst_bytes - slot.data_at % session.config.max_burst_bytes
        length = min(slot.data_end - slot.data_at, session.config.initiator_recv_bytes_max)
        length = min(length, burst)
        head = head_next(session, <uint32_t>SP_ISCSI_DATA_IN)
        bhs = <sp_iscsi_scsi_data_in *>head.bhs
        # A sequence ends at MaxBurstLength and at the end. Source: RFC 7143, 11.7.1.
        bhs.flags = FINAL if length == burst or slot.data_at + length == slot.data_end else 0
        bhs.itt = sp_be32_make(slot.itt)
        bhs.ttt = sp_be32_make(<uint32_t>SP_ISCSI_NO_TAG)
        bhs.data_sn = sp_be32_make(slot.data_sn)
        bhs.offset = sp_be32_make(slot.data_at)
        slot.data_sn += 1
        if slot.data_at + length == slot.data_end and slot.sense_bytes == 0:
            # The last of the data carries the status, which must be GOOD there. Source: RFC 7143, 11.7.3.
            slot_retire(slot)
            bhs.flags |= <uint8_t>(HAS_STATUS | residual(slot, &count))
            number_answer(session, <sp_iscsi_answer *>bhs, True)
            bhs.residual = sp_be32_make(count)
        else:
            number_answer(session, <sp_iscsi_answer *>bhs, False)
            bhs.stat_sn = sp_be32_make(0)
        put_pages(session, head, slot, slot.data_base + slot.data_at, length)
        slot.data_at += length
        if bhs.flags & HAS_STATUS:
            return True


cdef void build_pdu(Session *session, Slot *slot) noexcept nogil:
    cdef Head *head = head_next(session, 0)
    slot_retire(slot)
    memcpy(head.bhs, slot.bhs, 48)
    number_answer(session, <sp_iscsi_answer *>head.bhs, True)
    if slot.sense_bytes != 0:
        put_inline(session, head, slot.sense, slot.sense_bytes)
    else:
        put_pages(session, head, slot, 0, slot.data_end)


# ---------------------------------------------------------------- one send

cdef void build(Session *session) noexcept nogil:
    cdef Slot *slot
    cdef uint32_t out
    session.head_count = 0
    stream_begin(&session.client)
    if session.ping_queued:
        build_ping(session)
    if session.leave_s != 0:
        build_leave(session)
    while session.out_head != NULL:
        slot = session.out_head
        out = slot.out
        if session.head_count == SEND_HEADS or session.client.iov_count + REQ_PAGES_MAX + 4 > CLIENT_IOVS:
            return
        if out == OUT_R2T:
            pop(session)
            build_r2t(session, slot)
            continue
        if out == OUT_SCSI:
            if not build_scsi(session, slot):
                return
        else:
            build_pdu(session, slot)
        pop(session)
        slot.next = session.flying
        session.flying = slot
        if out == OUT_LAST:
            # Nothing follows a logout: what else is queued ends with the session.
            session.closing_after = True
            return


cdef void send_pump(Session *session) noexcept nogil:
    if session.client.send_op.busy or session.closing_after:
        return
    build(session)
    stream_send(&session.client)


cdef void send_done(Session *session) noexcept nogil:
    cdef Slot *slot
    while session.flying != NULL:
        slot = session.flying
        session.flying = slot.next
        slot.next = NULL
        slot_free(slot)
    if session.closing_after:
        client_fail(&session.client, ENDED_LOGOUT)
