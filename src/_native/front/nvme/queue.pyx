"""A queue begins with its socket and ends in order; a host that breaks the protocol is told so first.

The end after a termination PDU. Nothing is read for its meaning any more. The PDU leaves behind what is being sent,
then the host has a moment to read it and to hang up: a socket closed with unread bytes would throw it away. Source:
NVMe/TCP 1.0, 3.5.4 (fatal errors).
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.front.client cimport (
    CLIENT_NVME, ENDED_SILENT, Client, ClientHooks, ClientKind, client_begin, client_fail, client_find,
)
from sparrow._native.front.nvme.queue cimport (
    DEPTH_MAX, NO_CID, OUT_NONE, SLOT_BLOCK, SLOT_COLLECT, SLOT_FREE, SLOT_UPCALL, STAGING_BYTES, Queue, QueueConfig,
    Slot,
)
from sparrow._native.front.nvme.recv cimport recv_pump
from sparrow._native.front.nvme.send cimport send_done, send_pump
from sparrow._native.front.nvme.slots cimport slot_free, slot_of
from sparrow._native.layout cimport (
    SP_NVME_C2H_TERM, SP_NVME_SC_PREEMPTED, SP_NVME_TERM_HEADER_MAX, SP_NVME_TERM_SIZE, sp_nvme_term,
)
from sparrow._native.reactor cimport Reactor, Timer, now_boot, task_queue, timer_clear, timer_set
from sparrow._native.reservations cimport nexus_set
from sparrow._native.sys cimport calloc, free, malloc, memcpy, memset
from sparrow._native.volume cimport Volume


cdef uint64_t WATCH_NS = 5000000000        # between two looks at a send under way
cdef uint64_t SILENT_NS = 30000000000      # a socket that took nothing for so long is given up
cdef uint64_t HANG_UP_NS = 1000000000      # for the host, after a termination PDU


# ---------------------------------------------------------------- begin

cdef void give_back(Queue *queue) noexcept nogil:
    free(queue.slots)
    free(queue.client.in_bytes)
    free(queue)


cdef Queue *queue_adopt(
    Reactor *reactor, Volume *volume, const QueueConfig *config, const uint8_t *pending, uint32_t length,
    ClientHooks *hooks
) noexcept nogil:
    cdef Queue *queue = <Queue *>calloc(1, sizeof(Queue))
    cdef uint32_t i
    if queue != NULL:
        queue.slots = <Slot *>calloc(DEPTH_MAX, sizeof(Slot))
        queue.client.in_bytes = <uint8_t *>malloc(STAGING_BYTES)
    if (
        queue == NULL or queue.slots == NULL or queue.client.in_bytes == NULL or volume.closing or length > STAGING_BYTES
        or config.depth < 2 or config.depth > DEPTH_MAX or config.sq_head >= config.depth
        or config.data_align < 4 or config.data_align > 128 or config.data_align % 4 != 0
    ):
        if queue != NULL:
            give_back(queue)
        reactor.io.close(&reactor.io, config.fd)
        return NULL
    queue.config = config[0]
    nexus_set(&queue.client.nexus, config.nexus)
    queue.client.kind = &KIND
    queue.client.key = config.key
    queue.client.fd = config.fd
    queue.sq_head = config.sq_head
    for i in range(<uint32_t>DEPTH_MAX):
        queue.slots[i].queue = queue
        queue.slots[i].index = i
        queue.cids[i] = NO_CID
    for i in range(config.depth):
        queue.free_slots[i] = config.depth - 1 - i
    queue.free_count = config.depth
    if length != 0:
        memcpy(queue.client.in_bytes, pending, length)
    queue.client.in_have = length
    queue.client.in_room = STAGING_BYTES
    queue.watch_timer.fire = on_watch
    queue.watch_timer.owner = queue
    timer_set(reactor, &queue.watch_timer, now_boot(reactor) + WATCH_NS)
    client_begin(&queue.client, reactor, volume, hooks)
    return queue


# ---------------------------------------------------------------- what every connection does

cdef void pump(Client *client) noexcept nogil:
    cdef Queue *queue = <Queue *>client
    if not queue.started:
        queue.started = True
        recv_pump(queue)
    if client.closing == 0:
        send_pump(queue)
    if client.closing == 0 and queue.last_built and not client.send_op.busy and not queue.draining:
        if queue.term_bytes == 0:
            client_fail(client, queue.why)
            return
        queue.draining = True
        client.lost = queue.why
        timer_set(client.reactor, &queue.watch_timer, now_boot(client.reactor) + HANG_UP_NS)
        recv_pump(queue)


cdef void received(Client *client) noexcept nogil:
    cdef Queue *queue = <Queue *>client
    recv_pump(queue)


cdef void resume(Client *client) noexcept nogil:
    recv_pump(<Queue *>client)


cdef void sent(Client *client) noexcept nogil:
    send_done(<Queue *>client)


cdef void tear(Client *client) noexcept nogil:
    cdef Queue *queue = <Queue *>client
    cdef uint32_t i
    timer_clear(client.reactor, &queue.watch_timer)
    for i in range(<uint32_t>DEPTH_MAX):
        if queue.slots[i].state == SLOT_BLOCK:
            client.hooks.abort(&queue.slots[i].req)


cdef bint quiet(Client *client) noexcept nogil:
    return (<Queue *>client).block_reqs == 0


cdef void release(Client *client) noexcept nogil:
    cdef Queue *queue = <Queue *>client
    cdef uint32_t i
    for i in range(<uint32_t>DEPTH_MAX):
        if queue.slots[i].state != SLOT_FREE:
            queue.slots[i].out = OUT_NONE
            slot_free(&queue.slots[i])
    give_back(queue)


cdef void resized(Client *client) noexcept nogil:
    """The admin queue tells the host."""
    pass


cdef bint *upcalled(Client *client, uint32_t tag) noexcept nogil:
    cdef Slot *slot = slot_of(<Queue *>client, tag)
    return NULL if client.closing != 0 or slot == NULL or slot.state != SLOT_UPCALL else &slot.logged


cdef void preempted(Client *client) noexcept nogil:
    """Like Abort for each. One that still waits for data of the host ends when that is here; halves of a fused pair,
    and commands that Python has, all of reservations, are left to the table that now stands."""
    cdef Queue *queue = <Queue *>client
    cdef Slot *slot
    cdef uint32_t i
    for i in range(<uint32_t>DEPTH_MAX):
        slot = &queue.slots[i]
        if slot.mate != NULL or slot.first:
            continue
        if slot.state == SLOT_COLLECT and slot.status == 0:
            slot.status = SP_NVME_SC_PREEMPTED
        elif slot.state == SLOT_BLOCK:
            slot.aborting = True
            slot.preempted = True
            # Its done, called from here, answers it.
            queue.client.hooks.abort(&slot.req)


cdef ClientKind KIND
KIND.protocol = CLIENT_NVME
KIND.pump = pump
KIND.received = received
KIND.resume = resume
KIND.sent = sent
KIND.tear = tear
KIND.quiet = quiet
KIND.release = release
KIND.resized = resized
KIND.upcalled = upcalled
KIND.preempted = preempted


# ---------------------------------------------------------------- Abort

cdef Queue *queue_find(ClientHooks *hooks, uint64_t key) noexcept nogil:
    cdef Client *client = client_find(hooks, key)
    if client == NULL or client.kind.protocol != CLIENT_NVME:
        return NULL
    return <Queue *>client


cdef bint queue_abort(Queue *queue, uint16_t cid) noexcept nogil:
    """A command without an LSN is taken back and never becomes a write. One that is in the log cannot be: it will be
    committed or not by what the replicas hold. One that waits for data of the host is left to that data, which has to
    find it. Halves of a fused pair stand or fall together, and are left alone.

    Source: NVMe base 2.0, 5.1.
    """
    cdef uint32_t i
    cdef Slot *slot = NULL
    for i in range(<uint32_t>DEPTH_MAX):
        if queue.cids[i] == cid:
            slot = &queue.slots[i]
    if slot == NULL or slot.state != SLOT_BLOCK or slot.mate != NULL:
        return False
    slot.aborting = True
    # Its done, called from here, answers it; a request that has to be waited for may still end so.
    return queue.client.hooks.abort(&slot.req)


# ---------------------------------------------------------------- end

cdef void queue_terminate(Queue *queue, uint32_t fes, uint32_t info, int why) noexcept nogil:
    cdef sp_nvme_term *term = <sp_nvme_term *>queue.term
    cdef uint32_t bytes_back = min(queue.head_bytes, <uint32_t>SP_NVME_TERM_HEADER_MAX)
    if queue.ending:
        return
    memset(queue.term, 0, sizeof(queue.term))
    term.pdu_type = <uint8_t>SP_NVME_C2H_TERM
    term.hlen = <uint8_t>SP_NVME_TERM_SIZE
    term.plen = SP_NVME_TERM_SIZE + bytes_back
    term.fes = fes
    term.fei = info
    memcpy(queue.term + SP_NVME_TERM_SIZE, queue.head, bytes_back)
    queue.term_bytes = SP_NVME_TERM_SIZE + bytes_back
    queue.ending = True
    queue.why = why
    task_queue(queue.client.reactor, &queue.client.task)


cdef void on_watch(Timer *timer) noexcept nogil:
    cdef Queue *queue = <Queue *>timer.owner
    cdef Client *client = &queue.client
    cdef uint64_t now = now_boot(client.reactor)
    if client.closing != 0:
        return
    if queue.draining:
        client_fail(client, queue.why)
    elif client.send_op.busy and now - queue.client.sent_ns >= SILENT_NS:
        client_fail(client, ENDED_SILENT)
    else:
        timer_set(client.reactor, timer, now + WATCH_NS)
