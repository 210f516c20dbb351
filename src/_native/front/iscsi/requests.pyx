"""Requests of the initiator: numbering, the state of each from its first byte to its answer.

    COLLECT -> BLOCK | UPCALL -> ANSWER      DRAIN -> ANSWER for one that failed before it began

What happens from BLOCK and UPCALL on stands in execute.pyx.

ErrorRecoveryLevel 0 on one TCP connection: what arrives is in order and complete, so a gap in CmdSN is a broken
initiator, and the session ends. A command whose data comes out of place, or ends too soon, fails when the last of it is
here. A command that cannot be served gets its SCSI status; a PDU that cannot be understood gets a Reject.

Write data is copied from the socket's buffer into pages, taken for the whole command before it is accepted
(front/pages.pxd). A session that would wait for pages too long answers BUSY, which initiators try again.

Source: RFC 7143, 4.2.2 (CmdSN), 4.2.5 (data), 11.3, 11.5, 11.7, 11.10, 11.14, 11.16, 11.17, 11.18.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.front.client cimport ENDED_PROTOCOL, client_fail
from sparrow._native.front.iscsi.execute cimport execute, execute_upcall
from sparrow._native.front.iscsi.manage cimport manage_begin, manage_knows
from sparrow._native.front.iscsi.scsi cimport (
    CDB_COMPARE, CDB_OTHER, CDB_READ, CDB_SAME, CDB_VERIFY, CDB_WRITE, SENSE_ACCESS, SENSE_AMOUNT, SENSE_CAPACITY,
    SENSE_FIELD, SENSE_NEXUS_LOSS, SENSE_POWER_ON, SENSE_REGISTRATIONS_PREEMPTED, SENSE_RESERVATIONS_PREEMPTED,
    SENSE_RESERVATIONS_RELEASED, SENSE_RESET, SENSE_SEQUENCE, SENSE_UNSOLICITED, STATUS_BUSY, STATUS_CHECK, Cdb,
    cdb_decode, sense_build,
)
from sparrow._native.front.iscsi.send cimport send_queue, send_status
from sparrow._native.front.iscsi.session cimport (
    ATTENTION_ACCESS, ATTENTION_NEXUS_LOSS, ATTENTION_POWER_ON, ATTENTION_REGISTRATIONS_PREEMPTED,
    ATTENTION_RESERVATIONS_PREEMPTED, ATTENTION_RESERVATIONS_RELEASED, ATTENTION_RESET, IMMEDIATE_MAX, OUT_LAST,
    OUT_PDU, OUT_R2T, SLOT_COLLECT, SLOT_DRAIN, UPCALL_BYTES_MAX, Session, Slot,
)
from sparrow._native.front.iscsi.slots cimport slot_drop_pages, slot_find, slot_of, slot_pages, slot_take
from sparrow._native.front.pages cimport pages_awaited, pages_of
from sparrow._native.front.stream cimport stream_waited_ns
from sparrow._native.layout cimport (
    SP_ISCSI_COMMAND, SP_ISCSI_DATA_OUT, SP_ISCSI_LOGIN, SP_ISCSI_LOGOUT, SP_ISCSI_LOGOUT_RESPONSE, SP_ISCSI_NOP_IN,
    SP_ISCSI_NOP_OUT, SP_ISCSI_NO_TAG, SP_ISCSI_REJECT, SP_ISCSI_SNACK, SP_ISCSI_TASK_MANAGEMENT, SP_ISCSI_TEXT,
    sp_be16_get, sp_be24_get, sp_be32_get, sp_be32_make, sp_iscsi_answer, sp_iscsi_logout_request,
    sp_iscsi_scsi_command, sp_iscsi_scsi_data_out,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.sys cimport memcpy, memset, sp_assert

cdef enum:
    IMMEDIATE = 0x40           # of the opcode byte
    OPCODE = 0x3F
    FINAL = 0x80               # of the flags byte
    READS = 0x40
    WRITES = 0x20
    REJECT_PROTOCOL = 0x04     # RFC 7143, 11.17.1
    REJECT_UNSUPPORTED = 0x05
    REJECT_IMMEDIATE = 0x06
    REJECT_IN_PROGRESS = 0x07
    REJECT_FIELD = 0x09
    LOGOUT_RECOVERY = 2


# ---------------------------------------------------------------- helpers

cdef void reject(Session *session, uint8_t reason) noexcept nogil:
    """Send the header back; what follows it is thrown away. Needs a free slot."""
    cdef bint numbered = session.head.opcode & IMMEDIATE
    cdef Slot *slot
    cdef sp_iscsi_answer *bhs
    # A Reject takes no place in the window, whatever the request was.
    session.head.opcode |= IMMEDIATE
    slot = slot_take(session)
    if not numbered:
        session.head.opcode &= ~IMMEDIATE
        slot.bhs[0] &= ~IMMEDIATE
    session.itts[slot.index] = <uint32_t>SP_ISCSI_NO_TAG
    memcpy(slot.sense, slot.bhs, 48)
    slot.sense_bytes = 48
    memset(slot.bhs, 0, 48)
    bhs = <sp_iscsi_answer *>slot.bhs
    bhs.opcode = <uint8_t>SP_ISCSI_REJECT
    bhs.flags = FINAL
    bhs.response = reason
    bhs.itt = sp_be32_make(<uint32_t>SP_ISCSI_NO_TAG)
    send_queue(slot, OUT_PDU)


cdef bint in_order(Session *session, uint32_t cmd_sn) noexcept nogil:
    """Is this request the next one? False: it is thrown away, or the session ends."""
    cdef int32_t ahead
    if session.head.opcode & IMMEDIATE:
        if session.immediates >= IMMEDIATE_MAX:
            reject(session, REJECT_IMMEDIATE)
            return False
        return True
    ahead = <int32_t>(cmd_sn - session.exp_cmd_sn)
    # Outside the window it is ignored without a word; a gap inside cannot be filled any more. RFC 7143, 4.2.2.1.
    if ahead < 0 or <uint32_t>ahead + session.active >= session.config.queue_depth:
        return False
    if ahead > 0:
        client_fail(&session.client, ENDED_PROTOCOL)
        return False
    return True


cdef bint tag_is_new(Session *session) noexcept nogil:
    cdef uint32_t itt = sp_be32_get(session.head.itt)
    if itt == SP_ISCSI_NO_TAG:
        reject(session, REJECT_FIELD)
        return False
    if slot_find(session, itt) != NULL:
        reject(session, REJECT_IN_PROGRESS)
        return False
    return True


cdef bint must_stall(Session *session, uint32_t pages, bint reads, bint *busy) noexcept nogil:
    """Are there no pages for this request now? `busy` is set when waiting would not bring them."""
    cdef uint64_t waited_ns = stream_waited_ns(&session.client) if session.collecting != 0 else 0
    return pages_awaited(
        &session.client.reactor.pool, pages, session.read_pages if reads else 0, waited_ns, busy
    )


cdef inline bint lun_is_zero(const uint8_t *lun) noexcept nogil:
    # Peripheral or flat addressing of LUN 0. Source: SAM-5, 4.7.
    return lun[0] & ~0x40 == 0 and not (lun[1] | lun[2] | lun[3] | lun[4] | lun[5] | lun[6] | lun[7])


# ---------------------------------------------------------------- SCSI commands

cdef uint32_t attention_sense(uint32_t attention) noexcept nogil:
    """What a unit attention is told as."""
    if attention == ATTENTION_POWER_ON:
        return SENSE_POWER_ON
    if attention == ATTENTION_NEXUS_LOSS:
        return SENSE_NEXUS_LOSS
    if attention == ATTENTION_RESET:
        return SENSE_RESET
    if attention == ATTENTION_ACCESS:
        return SENSE_ACCESS
    if attention == ATTENTION_RESERVATIONS_PREEMPTED:
        return SENSE_RESERVATIONS_PREEMPTED
    if attention == ATTENTION_RESERVATIONS_RELEASED:
        return SENSE_RESERVATIONS_RELEASED
    if attention == ATTENTION_REGISTRATIONS_PREEMPTED:
        return SENSE_REGISTRATIONS_PREEMPTED
    return SENSE_CAPACITY


cdef PduVerdict begin_command(Session *session) noexcept nogil:
    cdef sp_iscsi_scsi_command *bhs = <sp_iscsi_scsi_command *>&session.head
    cdef uint32_t data_bytes = sp_be24_get(bhs.data_bytes)
    cdef uint32_t expected = sp_be32_get(bhs.expected_bytes)
    cdef uint32_t expected_out = expected if bhs.flags & WRITES else 0
    cdef uint32_t block = session.client.volume.block_size
    cdef uint32_t sense = 0
    cdef uint32_t want = 0
    cdef uint64_t length = 0
    cdef uint32_t base = 0
    cdef Cdb cdb
    cdef uint32_t pages
    cdef Slot *slot
    cdef bint busy, reads
    cdef uint32_t attention = 0
    if not in_order(session, sp_be32_get(bhs.cmd_sn)) or not tag_is_new(session):
        return PDU_TAKE
    memset(&cdb, 0, sizeof(Cdb))
    cdb.field = -1
    cdb.bit = -1
    if lun_is_zero(bhs.lun):
        cdb_decode(&cdb, bhs.cdb, session.client.volume)
    sense = cdb.sense
    if sense == 0:
        length = <uint64_t>cdb.blocks * block if cdb.kind == CDB_READ else cdb.data_bytes
    if cdb.kind != CDB_OTHER and cdb.kind != CDB_READ and sense == 0:
        want = <uint32_t>min(length, <uint64_t>expected_out)
        if (
            cdb.kind == CDB_SAME or cdb.kind == CDB_COMPARE or (cdb.kind == CDB_VERIFY and length != 0)
        ) and expected_out != length:
            # Exactly the block, or nothing with NDOB; exactly what is compared, and what is written.
            sense = SENSE_FIELD
        if cdb.kind == CDB_WRITE:
            # Data lies in its pages as it will in the volume's.
            want -= want % block
            base = <uint32_t>(cdb.lba * block % PAGE)
        elif cdb.kind == CDB_VERIFY and not cdb.same:
            base = <uint32_t>(cdb.lba * block % PAGE)
    elif cdb.kind == CDB_OTHER:
        want = expected_out
        if want > UPCALL_BYTES_MAX:
            sense = SENSE_FIELD
    if data_bytes != 0 and (not session.config.immediate_data or not bhs.flags & WRITES):
        sense = SENSE_UNSOLICITED
    elif data_bytes > expected_out or data_bytes > session.config.first_burst_bytes:
        sense = SENSE_AMOUNT
    elif bhs.flags & WRITES and not bhs.flags & FINAL and session.config.initial_r2t:
        sense = SENSE_UNSOLICITED
    # INQUIRY, REPORT LUNS and REQUEST SENSE neither report nor end a unit attention. Source: SAM-5, 5.14.
    if bhs.cdb[0] != 0x12 and bhs.cdb[0] != 0xA0 and bhs.cdb[0] != 0x03:
        attention = session.attention & (~session.attention + 1)
    if attention != 0:
        sense = attention_sense(attention)
        cdb.field = -1
    if sense != 0:
        want = 0
    reads = cdb.kind == CDB_READ and sense == 0
    pages = pages_of(cdb.lba * block, min(length, <uint64_t>expected)) if reads else pages_of(base, want)
    if must_stall(session, pages, reads, &busy):
        return PDU_STALL
    # From here on the command is accepted.
    slot = slot_take(session)
    session.attention &= ~attention
    slot.scsi = True
    slot.kind = cdb.kind
    slot.expected = expected
    slot.expected_in = expected if bhs.flags & READS else 0
    slot.length = <uint32_t>length
    slot.offset = cdb.lba * block
    slot.span = <uint64_t>cdb.blocks * block
    slot.same = cdb.same
    session.sink = slot
    if bhs.flags & WRITES and not bhs.flags & FINAL:
        slot.bursting = True
        slot.solicited = min(session.config.first_burst_bytes, expected_out)
        if slot.solicited <= data_bytes:
            # All that may come unsolicited is here already.
            slot.bursting = False
    slot.state = SLOT_DRAIN
    if sense != 0:
        slot.status = STATUS_CHECK
        slot.sense_bytes = sense_build(slot.sense, sense, cdb.field, cdb.bit)
    elif busy:
        slot.status = STATUS_BUSY
    else:
        slot.state = SLOT_COLLECT
        slot.want = want
        if reads:
            slot.read_pages = pages
            session.read_pages += pages
        elif want != 0:
            slot.data_base = base
            sp_assert(slot_pages(slot, base + want, True), b"spare pages are gone within a turn")
            session.collecting += 1
    return PDU_TAKE


cdef void collect_step(Slot *slot) noexcept nogil:
    """Some of a command is here: ask for more, or begin."""
    cdef Session *session = slot.session
    if slot.bursting:
        return
    if slot.state == SLOT_DRAIN:
        send_status(slot, slot.status)
        return
    if slot.have < slot.want:
        slot.solicited = slot.have + min(slot.want - slot.have, session.config.max_burst_bytes)
        slot.bursting = True
        slot.r2t_open = True
        send_queue(slot, OUT_R2T)
        return
    execute(slot)


# ---------------------------------------------------------------- Data-Out

cdef void begin_data_out(Session *session) noexcept nogil:
    cdef sp_iscsi_scsi_data_out *bhs = <sp_iscsi_scsi_data_out *>&session.head
    cdef uint32_t data_bytes = sp_be24_get(bhs.data_bytes)
    cdef uint32_t ttt = sp_be32_get(bhs.ttt)
    cdef Slot *slot
    if ttt == SP_ISCSI_NO_TAG:
        slot = slot_find(session, sp_be32_get(bhs.itt))
    else:
        slot = slot_of(session, ttt)
    if (
        slot == NULL or not slot.bursting or slot.r2t_open != (ttt != SP_ISCSI_NO_TAG)
        or (slot.state != SLOT_COLLECT and slot.state != SLOT_DRAIN)
    ):
        # For a command that was aborted, or that never was: nobody waits for it.
        return
    session.sink = slot
    if slot.broken:
        return
    if (
        sp_be32_get(bhs.offset) != slot.have or data_bytes > slot.solicited - slot.have
        or sp_be32_get(bhs.data_sn) != slot.data_out_sn
    ):
        out_of_sequence(slot)
        return
    slot.data_out_sn += 1


cdef void out_of_sequence(Slot *slot) noexcept nogil:
    """A PDU is missing, doubled, too long or in the wrong place. Without recovery within a command the command fails, and
    is told so when the last of its data is here; the session goes on. Source: RFC 7143, 7.8 and 7.9."""
    if slot.state == SLOT_COLLECT and slot.page_count != 0:
        slot.session.collecting -= 1
    slot_drop_pages(slot)
    slot.state = SLOT_DRAIN
    slot.broken = True
    slot.want = 0
    slot.status = STATUS_CHECK
    slot.sense_bytes = sense_build(slot.sense, SENSE_SEQUENCE, -1, -1)


cdef void end_data_out(Session *session, Slot *slot) noexcept nogil:
    cdef bint full = slot.have == slot.solicited
    if slot.broken:
        if session.head.flags & FINAL:
            slot.bursting = False
            slot.r2t_open = False
            collect_step(slot)
        return
    if not session.head.flags & FINAL and not full:
        return
    if slot.r2t_open and not full:
        # A burst shorter than asked for: recovering from that is for higher levels.
        out_of_sequence(slot)
    slot.bursting = False
    slot.r2t_open = False
    slot.data_out_sn = 0
    collect_step(slot)


# ---------------------------------------------------------------- the others

cdef PduVerdict begin_with_data(Session *session, uint32_t bytes_max) noexcept nogil:
    """A request of one PDU whose data is kept, at most so much of it."""
    cdef uint32_t want = min(sp_be24_get(session.head.data_bytes), bytes_max)
    cdef Slot *slot
    cdef bint busy
    if not in_order(session, sp_be32_get(session.head.word24)) or not tag_is_new(session):
        return PDU_TAKE
    if must_stall(session, pages_of(0, want), False, &busy):
        return PDU_STALL
    slot = slot_take(session)
    if busy:
        want = 0
    slot.want = want
    if want != 0:
        sp_assert(slot_pages(slot, want, True), b"spare pages are gone within a turn")
        session.collecting += 1
    session.sink = slot
    return PDU_TAKE


cdef void end_nop_out(Slot *slot) noexcept nogil:
    cdef sp_iscsi_answer *bhs = <sp_iscsi_answer *>slot.bhs
    cdef uint8_t lun[8]
    memcpy(lun, bhs.lun, 8)
    memset(slot.bhs, 0, 48)
    memcpy(bhs.lun, lun, 8)
    bhs.opcode = <uint8_t>SP_ISCSI_NOP_IN
    bhs.flags = FINAL
    bhs.itt = sp_be32_make(slot.itt)
    bhs.ttt = sp_be32_make(<uint32_t>SP_ISCSI_NO_TAG)
    slot.data_end = slot.want
    send_queue(slot, OUT_PDU)


cdef void end_logout(Slot *slot) noexcept nogil:
    """Response 0 closes; 1: no such connection; 2: connection recovery is not supported. RFC 7143, 11.15.1."""
    cdef sp_iscsi_logout_request *request = <sp_iscsi_logout_request *>slot.bhs
    cdef sp_iscsi_answer *bhs = <sp_iscsi_answer *>slot.bhs
    cdef Session *session = slot.session
    cdef uint8_t reason = request.flags & 0x7F
    cdef uint8_t response = 0
    if reason == LOGOUT_RECOVERY:
        response = 2
    elif reason == 1 and sp_be16_get(request.cid) != session.config.cid:
        response = 1
    memset(slot.bhs, 0, 48)
    bhs.opcode = <uint8_t>SP_ISCSI_LOGOUT_RESPONSE
    bhs.flags = FINAL
    bhs.response = response
    bhs.itt = sp_be32_make(slot.itt)
    if response == 0:
        session.logged_out = True
        send_queue(slot, OUT_LAST)
    else:
        send_queue(slot, OUT_PDU)


# ---------------------------------------------------------------- dispatch

cdef PduVerdict pdu_begin(Session *session) noexcept nogil:
    cdef uint32_t opcode = session.head.opcode & OPCODE
    session.sink = NULL
    if opcode == SP_ISCSI_DATA_OUT:
        begin_data_out(session)
        return PDU_TAKE
    if session.free_count == 0:
        return PDU_STALL
    if opcode == SP_ISCSI_COMMAND:
        return begin_command(session)
    if opcode == SP_ISCSI_NOP_OUT:
        if sp_be32_get(session.head.itt) == SP_ISCSI_NO_TAG:
            # The answer to our NOP-In, or only an ExpStatSN: must be immediate, wants no answer.
            return PDU_TAKE
        return begin_with_data(session, min(session.config.initiator_recv_bytes_max, <uint32_t>UPCALL_BYTES_MAX))
    if opcode == SP_ISCSI_TEXT:
        if sp_be24_get(session.head.data_bytes) > UPCALL_BYTES_MAX:
            reject(session, REJECT_FIELD)
            return PDU_TAKE
        return begin_with_data(session, UPCALL_BYTES_MAX)
    if opcode == SP_ISCSI_TASK_MANAGEMENT:
        return begin_with_data(session, 0)
    if opcode == SP_ISCSI_LOGOUT:
        if session.head.flags & 0x7F > LOGOUT_RECOVERY:
            reject(session, REJECT_FIELD)
            return PDU_TAKE
        return begin_with_data(session, 0)
    if opcode == SP_ISCSI_LOGIN or opcode == SP_ISCSI_SNACK:
        # No login in full-feature phase; nothing can be sent again at ErrorRecoveryLevel 0. RFC 7143, 11.16.
        reject(session, REJECT_PROTOCOL)
        return PDU_TAKE
    reject(session, REJECT_UNSUPPORTED)
    return PDU_TAKE


cdef void pdu_end(Session *session) noexcept nogil:
    cdef uint32_t opcode = session.head.opcode & OPCODE
    cdef Slot *slot = session.sink
    session.sink = NULL
    if slot == NULL:
        return
    if opcode == SP_ISCSI_COMMAND:
        collect_step(slot)
        return
    if opcode == SP_ISCSI_DATA_OUT:
        end_data_out(session, slot)
        return
    if opcode == SP_ISCSI_TEXT or (opcode == SP_ISCSI_TASK_MANAGEMENT and not manage_knows(slot)):
        if slot.page_count != 0:
            session.collecting -= 1
        execute_upcall(slot)
    elif opcode == SP_ISCSI_TASK_MANAGEMENT:
        manage_begin(slot)
    elif opcode == SP_ISCSI_NOP_OUT:
        end_nop_out(slot)
    else:
        end_logout(slot)
