"""Task management on one logical unit.

A command without an LSN is taken back and never becomes a write. One with an LSN cannot be: its entry is in the log
and will be committed or not by what the replicas hold, so the function is answered only after it has ended, with its
own answer before ours. That keeps a write from landing after its initiator was told that it is gone. ABORT TASK then
says that the task does not exist (any more); function complete means that it never will have happened.

A change of reservations is Python's until it is logged, and logging looks in that same turn whether its command is
still here (control/reserve.pyx). So one that was taken back is never logged, and one that is logged is waited for.
Whether it was carried out is what its own answer says, which may be that nobody knows yet.

ABORT TASK and ABORT TASK SET reach the commands of their own session. CLEAR TASK SET, LOGICAL UNIT RESET and TARGET
WARM RESET, which is the same as there is one unit, reach every session of the volume; commands of others end with TASK
ABORTED, which is what TAS=1 promises. A reset is told to every session by a unit attention.

PREEMPT AND ABORT of somebody else ends all commands of a session in the same way (SPC-4, 5.13.11.2.6), once the table
that takes its registration away has committed. So those with an LSN below that have ended; what has none yet never gets
one, and what is read is not sent, though the answer may take as long as the read. A change of reservations of its own
that is logged, its own PREEMPT AND ABORT among them, ends by itself.

Source: RFC 7143, 11.5, 11.6 and 4.2.3; SAM-5, 7.
"""

from libc.stdint cimport uint8_t, uint32_t

from sparrow._native.front.client cimport ClientHooks
from sparrow._native.front.iscsi.scsi cimport STATUS_ABORTED
from sparrow._native.front.iscsi.session cimport (
    ATTENTION_RESET, OUT_PDU, SLOT_ANSWER, SLOT_BLOCK, SLOT_COLLECT, SLOT_DRAIN, SLOT_MANAGE, SLOT_UPCALL, SLOTS,
    Session, Slot, session_from, slot_tag,
)
from sparrow._native.front.iscsi.send cimport send_queue, send_remove, send_status
from sparrow._native.front.iscsi.slots cimport slot_find, slot_free, slot_of
from sparrow._native.layout cimport (
    SP_ISCSI_TASK_MANAGEMENT_RESPONSE, sp_be32_get, sp_be32_make, sp_iscsi_answer, sp_iscsi_task_request,
)
from sparrow._native.sys cimport memcmp, memset

cdef enum:
    ABORT_TASK = 1
    ABORT_TASK_SET = 2
    CLEAR_TASK_SET = 4
    LUN_RESET = 5
    WARM_RESET = 6             # of the target, which has one unit
    FINAL = 0x80
    DONE = 0                   # responses: RFC 7143, 11.6.1
    NO_TASK = 1
    NO_LUN = 2

cdef uint8_t LUN_ZERO[8]
cdef uint8_t LUN_ZERO_FLAT[8]
memset(LUN_ZERO, 0, 8)
memset(LUN_ZERO_FLAT, 0, 8)
LUN_ZERO_FLAT[0] = 0x40


cdef inline bint resets(uint32_t function) noexcept nogil:
    return function == LUN_RESET or function == WARM_RESET


cdef bint manage_knows(const Slot *slot) noexcept nogil:
    cdef uint8_t function = slot.bhs[1] & 0x7F
    return function == ABORT_TASK or function == ABORT_TASK_SET or function == CLEAR_TASK_SET or resets(function)


cdef void answer(Slot *slot, uint8_t response) noexcept nogil:
    cdef sp_iscsi_answer *bhs = <sp_iscsi_answer *>slot.bhs
    memset(slot.bhs, 0, 48)
    bhs.opcode = <uint8_t>SP_ISCSI_TASK_MANAGEMENT_RESPONSE
    bhs.flags = FINAL
    bhs.response = response
    bhs.itt = sp_be32_make(slot.itt)
    send_queue(slot, OUT_PDU)


cdef void end_task(Slot *slot, bint tell) noexcept nogil:
    """Take one command back where that is possible; one that is answered already is left alone."""
    if slot.state == SLOT_BLOCK:
        slot.tell = tell
        slot.stop = True
        # Its done, called from here, frees it or answers TASK ABORTED.
        slot.session.client.hooks.abort(&slot.req)
    elif slot.state == SLOT_COLLECT or slot.state == SLOT_DRAIN or (slot.state == SLOT_UPCALL and not slot.logged):
        # What the initiator still sends for it, and what Python still answers, finds nobody.
        send_remove(slot)
        if tell:
            if slot.session.sink == slot:
                slot.session.sink = NULL
            send_status(slot, STATUS_ABORTED)
        else:
            slot_free(slot)


cdef void end_tasks(Session *session, const Slot *by) noexcept nogil:
    cdef Slot *slot
    cdef uint32_t i
    for i in range(<uint32_t>SLOTS):
        slot = &session.slots[i]
        if slot.scsi and slot.serial < by.serial and memcmp(slot.bhs + 8, by.bhs + 8, 8) == 0:
            end_task(slot, session != by.session)


cdef void manage_preempted(Session *session) noexcept nogil:
    cdef uint32_t i
    for i in range(<uint32_t>SLOTS):
        if session.slots[i].scsi:
            end_task(&session.slots[i], True)
    if session.client.hooks.managing != 0:
        manage_check(session.client.hooks)


cdef inline bint under_way(const Slot *slot) noexcept nogil:
    return slot.state == SLOT_BLOCK or (slot.state == SLOT_UPCALL and slot.logged)


cdef bint must_wait(const Slot *by) noexcept nogil:
    """Is a command in its reach still with the volume?"""
    cdef Session *session = session_from(by.session.client.hooks.first)
    cdef Slot *slot
    cdef uint32_t i
    if by.function == ABORT_TASK:
        slot = slot_of(by.session, by.target)
        return slot != NULL and under_way(slot)
    while session != NULL:
        if session == by.session or (by.function != ABORT_TASK_SET and session.client.volume == by.session.client.volume):
            for i in range(<uint32_t>SLOTS):
                if under_way(&session.slots[i]) and session.slots[i].serial < by.serial:
                    return True
        session = session_from(session.client.next)
    return False


cdef void manage_begin(Slot *slot) noexcept nogil:
    cdef sp_iscsi_task_request *bhs = <sp_iscsi_task_request *>slot.bhs
    cdef Session *session = slot.session
    cdef Session *other = session_from(session.client.hooks.first)
    cdef Slot *target
    slot.function = bhs.flags & 0x7F
    if slot.function != WARM_RESET and memcmp(bhs.lun, LUN_ZERO, 8) != 0 and memcmp(bhs.lun, LUN_ZERO_FLAT, 8) != 0:
        answer(slot, NO_LUN)
        return
    slot.target = 0
    if slot.function == ABORT_TASK:
        target = slot_find(session, sp_be32_get(bhs.task_itt))
        if target == NULL or target == slot or not target.scsi:
            answer(slot, NO_TASK)
            return
        if target.state == SLOT_ANSWER:
            answer(slot, NO_TASK)
            return
        slot.target = slot_tag(target)
        end_task(target, False)
    else:
        while other != NULL:
            # One that is closing takes its own commands back.
            if other.client.closing == 0 and (
                other == session or (slot.function != ABORT_TASK_SET and other.client.volume == session.client.volume)
            ):
                end_tasks(other, slot)
                if resets(slot.function):
                    other.attention |= ATTENTION_RESET
            other = session_from(other.client.next)
    if resets(slot.function) and session.client.volume.reserved:
        # RESERVE(6) ends with a reset (SPC-2, 5.5.1); reservations are Python's. Nobody answers this.
        session.client.hooks.upcall(session.client.hooks.owner, &session.client, slot_tag(slot), slot.bhs, NULL, 0)
    if must_wait(slot):
        slot.state = SLOT_MANAGE
        session.client.hooks.managing += 1
    else:
        answer(slot, DONE)


cdef void manage_check(ClientHooks *hooks) noexcept nogil:
    cdef Session *session = session_from(hooks.first)
    cdef Slot *slot
    cdef uint32_t i
    while session != NULL and hooks.managing != 0:
        for i in range(<uint32_t>SLOTS):
            slot = &session.slots[i]
            if session.client.closing == 0 and slot.state == SLOT_MANAGE and not must_wait(slot):
                # A single task that we had to wait for has ended by itself and said so.
                answer(slot, NO_TASK if slot.function == ABORT_TASK else DONE)
        session = session_from(session.client.next)
