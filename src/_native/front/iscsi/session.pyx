"""A session begins with its socket, is watched by NOP-In, and hears what Python answers."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.front.client cimport (
    ENDED_COMMAND, CLIENT_ISCSI, ENDED_NO_MEMORY, ENDED_SILENT, Client, ClientHooks, ClientKind, client_begin,
    client_fail, client_find,
)
from sparrow._native.front.iscsi.manage cimport manage_check, manage_preempted
from sparrow._native.front.iscsi.recv cimport recv_pump
from sparrow._native.front.iscsi.scsi cimport STATUS_BUSY, STATUS_GOOD
from sparrow._native.front.iscsi.send cimport send_done, send_pump, send_queue, send_status
from sparrow._native.front.iscsi.session cimport (
    ATTENTION_ACCESS, ATTENTION_CAPACITY, DEPTH_MAX, OUT_NONE, OUT_PDU, SENSE_MAX, SLOT_BLOCK, SLOT_FREE, SLOT_UPCALL,
    SLOTS, STAGING_BYTES, UPCALL_BYTES_MAX,
)
from sparrow._native.front.iscsi.slots cimport slot_free, slot_of, slot_pages
from sparrow._native.front.pages cimport pages_put
from sparrow._native.layout cimport SP_ISCSI_NO_TAG
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport Reactor, Timer, now_boot, task_queue, timer_clear, timer_set
from sparrow._native.reservations cimport nexus_set
from sparrow._native.sys cimport calloc, free, malloc, memcpy
from sparrow._native.volume cimport REQ_PAGES_MAX, Volume

cdef enum:
    SEGMENT_MIN = 512          # RFC 7143, 13.12 to 13.14


cdef uint64_t KEEPALIVE_NS = 15000000000
cdef uint64_t SECOND_NS = 1000000000


# ---------------------------------------------------------------- begin

cdef void give_back(Session *session) noexcept nogil:
    free(session.slots)
    free(session.client.in_bytes)
    free(session.scratch)
    free(session)


cdef Session *session_adopt(
    Reactor *reactor, Volume *volume, const SessionConfig *config, const uint8_t *pending, uint32_t length,
    ClientHooks *hooks
) noexcept nogil:
    cdef Session *session = <Session *>calloc(1, sizeof(Session))
    cdef uint32_t i
    if session != NULL:
        session.slots = <Slot *>calloc(SLOTS, sizeof(Slot))
        session.client.in_bytes = <uint8_t *>malloc(STAGING_BYTES)
        session.scratch = <uint8_t *>malloc(UPCALL_BYTES_MAX)
    if (
        session == NULL or session.slots == NULL or session.client.in_bytes == NULL or session.scratch == NULL
        or volume.closing or length > STAGING_BYTES
    ):
        if session != NULL:
            give_back(session)
        reactor.io.close(&reactor.io, config.fd)
        return NULL
    session.config = config[0]
    nexus_set(&session.client.nexus, config.nexus)
    session.client.kind = &KIND
    session.client.key = config.key
    session.client.fd = config.fd
    if session.config.queue_depth == 0 or session.config.queue_depth > DEPTH_MAX:
        session.config.queue_depth = DEPTH_MAX
    if session.config.keepalive_ns == 0:
        session.config.keepalive_ns = KEEPALIVE_NS
    # Whole words, so that only the last PDU of a transfer is padded.
    session.config.initiator_recv_bytes_max = max(config.initiator_recv_bytes_max, <uint32_t>SEGMENT_MIN) & ~<uint32_t>3
    session.config.initiator_recv_bytes_max = min(
        session.config.initiator_recv_bytes_max, <uint32_t>REQ_PAGES_MAX * PAGE
    )
    session.config.max_burst_bytes = max(config.max_burst_bytes, <uint32_t>SEGMENT_MIN) & ~<uint32_t>3
    session.attention = config.attention
    session.exp_cmd_sn = config.exp_cmd_sn
    session.stat_sn = config.stat_sn
    for i in range(<uint32_t>SLOTS):
        session.slots[i].session = session
        session.slots[i].index = i
        session.itts[i] = <uint32_t>SP_ISCSI_NO_TAG
        session.free_slots[i] = SLOTS - 1 - i
    session.free_count = SLOTS
    if length != 0:
        memcpy(session.client.in_bytes, pending, length)
    session.client.in_have = length
    session.client.in_room = STAGING_BYTES
    session.keepalive_timer.fire = on_keepalive
    session.keepalive_timer.owner = session
    session.leave_timer.fire = on_leave
    session.leave_timer.owner = session
    session.heard_ns = now_boot(reactor)
    timer_set(reactor, &session.keepalive_timer, session.heard_ns + session.config.keepalive_ns)
    client_begin(&session.client, reactor, volume, hooks)
    return session


cdef Session *session_find(ClientHooks *hooks, uint64_t key) noexcept nogil:
    cdef Client *client = client_find(hooks, key)
    if client == NULL or client.kind.protocol != CLIENT_ISCSI:
        return NULL
    return <Session *>client


# ---------------------------------------------------------------- what every connection does

cdef void pump(Client *client) noexcept nogil:
    cdef Session *session = <Session *>client
    if not session.started:
        session.started = True
        recv_pump(session)
    if client.closing == 0:
        send_pump(session)


cdef void received(Client *client) noexcept nogil:
    cdef Session *session = <Session *>client
    session.heard_ns = now_boot(client.reactor)
    session.ping_out = False
    recv_pump(session)


cdef void resume(Client *client) noexcept nogil:
    recv_pump(<Session *>client)


cdef void sent(Client *client) noexcept nogil:
    send_done(<Session *>client)


cdef void tear(Client *client) noexcept nogil:
    cdef Session *session = <Session *>client
    cdef uint32_t i
    timer_clear(client.reactor, &session.keepalive_timer)
    timer_clear(client.reactor, &session.leave_timer)
    for i in range(<uint32_t>SLOTS):
        if session.slots[i].state == SLOT_BLOCK:
            client.hooks.abort(&session.slots[i].req)


cdef bint quiet(Client *client) noexcept nogil:
    return (<Session *>client).block_reqs == 0


cdef void release(Client *client) noexcept nogil:
    """Task management of other sessions may have waited for a command of this one."""
    cdef Session *session = <Session *>client
    cdef ClientHooks *hooks = client.hooks
    cdef uint32_t i
    for i in range(<uint32_t>SLOTS):
        if session.slots[i].state != SLOT_FREE:
            session.slots[i].out = OUT_NONE
            slot_free(&session.slots[i])
    give_back(session)
    if hooks.managing != 0:
        manage_check(hooks)


cdef void resized(Client *client) noexcept nogil:
    """SBC-3, 4.14: capacity data has changed."""
    (<Session *>client).attention |= ATTENTION_CAPACITY


cdef void moved(Client *client) noexcept nogil:
    """SPC-4, 5.15.2.2: the asymmetric access state has changed."""
    (<Session *>client).attention |= ATTENTION_ACCESS


cdef void leave(Client *client, uint64_t within_ns) noexcept nogil:
    """Asked once; whoever does not log out in time is cut off."""
    cdef Session *session = <Session *>client
    if session.leave_timer.slot != 0:
        return
    session.leave_s = <uint32_t>min(max(within_ns // SECOND_NS, <uint64_t>1), <uint64_t>0xFFFF)
    timer_set(client.reactor, &session.leave_timer, now_boot(client.reactor) + within_ns)
    task_queue(client.reactor, &client.task)


cdef bint *upcalled(Client *client, uint32_t tag) noexcept nogil:
    cdef Slot *slot = asked(<Session *>client, tag, True)
    return NULL if slot == NULL else &slot.logged


cdef void preempted(Client *client) noexcept nogil:
    manage_preempted(<Session *>client)


cdef void on_leave(Timer *timer) noexcept nogil:
    client_fail(&(<Session *>timer.owner).client, ENDED_COMMAND)


cdef ClientKind KIND
KIND.protocol = CLIENT_ISCSI
KIND.pump = pump
KIND.received = received
KIND.resume = resume
KIND.sent = sent
KIND.tear = tear
KIND.quiet = quiet
KIND.release = release
KIND.resized = resized
KIND.moved = moved
KIND.leave = leave
KIND.upcalled = upcalled
KIND.preempted = preempted


# ---------------------------------------------------------------- keep-alive

cdef void on_keepalive(Timer *timer) noexcept nogil:
    """A silent initiator is asked once; a second silence of the same length ends the session. A stalled session is
    not silent: it is we who do not listen. An initiator that takes nothing from its socket holds our pages: it has the
    same time."""
    cdef Session *session = <Session *>timer.owner
    cdef uint64_t now = now_boot(session.client.reactor)
    cdef uint64_t period = session.config.keepalive_ns
    if session.client.closing != 0:
        return
    if session.client.send_op.busy and now - session.client.sent_ns >= 2 * period:
        client_fail(&session.client, ENDED_SILENT)
        return
    if session.client.stalled or session.logged_out:
        session.heard_ns = now
        session.ping_out = False
    if session.ping_out:
        if now - session.ping_ns >= period:
            client_fail(&session.client, ENDED_SILENT)
            return
        timer_set(session.client.reactor, timer, session.ping_ns + period)
    elif now - session.heard_ns >= period:
        session.ping_queued = True
        session.ping_out = True
        session.ping_ns = now
        task_queue(session.client.reactor, &session.client.task)
        timer_set(session.client.reactor, timer, now + period)
    else:
        timer_set(session.client.reactor, timer, session.heard_ns + period)


# ---------------------------------------------------------------- answers of Python

cdef Slot *asked(Session *session, uint32_t tag, bint scsi) noexcept nogil:
    cdef Slot *slot = slot_of(session, tag)
    if session.client.closing != 0 or slot == NULL or slot.state != SLOT_UPCALL or slot.scsi != scsi:
        return NULL
    return slot


cdef void session_answer(
    Session *session, uint32_t tag, uint8_t status, const uint8_t *sense, uint32_t sense_bytes,
    const uint8_t *data_in, uint32_t length
) noexcept nogil:
    cdef Slot *slot = asked(session, tag, True)
    if slot == NULL:
        return
    answered(session, slot, status, sense, sense_bytes, data_in, length)
    if session.client.hooks.managing != 0:
        # Task management may have waited for it.
        manage_check(session.client.hooks)


cdef void answered(
    Session *session, Slot *slot, uint8_t status, const uint8_t *sense, uint32_t sense_bytes,
    const uint8_t *data_in, uint32_t length
) noexcept nogil:
    cdef uint32_t sent
    if slot.expected_in != 0 or length != 0:
        slot.length = length
    else:
        # Nothing goes to the initiator: what came from it was taken.
        slot.length = slot.expected
    sent = min(length, slot.expected_in)
    if status == STATUS_GOOD and sent != 0:
        # Answers are small and rare: they may use the reserve.
        if sent > <uint32_t>REQ_PAGES_MAX * PAGE or not slot_pages(slot, sent, False):
            send_status(slot, STATUS_BUSY)
            return
        pages_put(slot.req.pages, 0, data_in, sent)
        slot.data_end = sent
    sense_bytes = min(sense_bytes, <uint32_t>SENSE_MAX)
    if sense_bytes != 0:
        slot.sense[0] = <uint8_t>(sense_bytes >> 8)
        slot.sense[1] = <uint8_t>sense_bytes
        memcpy(slot.sense + 2, sense, sense_bytes)
        slot.sense_bytes = 2 + sense_bytes
    send_status(slot, status)


cdef void session_answer_raw(
    Session *session, uint32_t tag, const uint8_t *bhs, const uint8_t *data, uint32_t length
) noexcept nogil:
    cdef Slot *slot = asked(session, tag, False)
    if slot == NULL:
        return
    length = min(length, session.config.initiator_recv_bytes_max)
    if length != 0 and not slot_pages(slot, length, False):
        # Python's answer cannot be kept; without it the initiator would wait for ever.
        client_fail(&session.client, ENDED_NO_MEMORY)
        return
    pages_put(slot.req.pages, 0, data, length)
    slot.data_end = length
    memcpy(slot.bhs, bhs, 48)
    slot.bhs[4] = 0
    send_queue(slot, OUT_PDU)
