"""A reactor with one volume in memory, for tests of the sessions in this folder: real sockets, real ring, no disk.

Mail goes both ways as in the real core, so Python and the reactor share nothing else. Not used by a running node.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from sparrow._native.extent.states cimport StateLook
from sparrow._native.front.client cimport CLIENT_NVME, Client, ClientHooks, client_end_all, client_fail, client_find
from sparrow._native.front.iscsi.session cimport (
    Session, SessionConfig, session_adopt, session_answer, session_answer_raw, session_find,
)
from sparrow._native.front.nbd.link cimport NbdConfig, nbd_adopt
from sparrow._native.front.nvme.queue cimport Queue, QueueConfig, queue_abort, queue_adopt, queue_find
from sparrow._native.front.nvme.upcall cimport queue_answer
from sparrow._native.mailbox cimport Mail, ring_pop, ring_push
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.reactor cimport Reactor, now_boot, reactor_close, reactor_open, reactor_run, send_up
from sparrow._native.sys cimport ECANCELED, EILSEQ, EINVAL, ENOMEM, calloc, free, malloc, memcmp, memcpy, memset, write
from sparrow._native.volume cimport REQ_READ, REQ_WRITE, REQ_ZERO, BlockReq, Volume

cdef enum:
    MAIL_STOP = 1
    MAIL_ADOPT = 2
    MAIL_ANSWER = 3
    MAIL_ANSWER_RAW = 4
    MAIL_END = 5
    MAIL_END_ALL = 6
    MAIL_GATE = 7
    MAIL_HOLD = 8
    MAIL_RELEASE = 9
    MAIL_FAIL = 10
    MAIL_STANDBY = 11
    MAIL_TAKE_PAGES = 12
    MAIL_SYNC = 13
    MAIL_ADOPT_QUEUE = 14
    MAIL_ADOPT_NBD = 15
    MAIL_ABORT = 16
    MAIL_ATTENTION = 17
    MAIL_PREEMPT = 18
    UP_UPCALL = 20
    UP_ENDED = 21
    UP_REFUSED = 22
    UP_SYNC = 23
    UP_ABORT = 24

cdef enum:
    HOLD_NOT = 0
    HOLD_FREE = 1              # kept back, can be aborted
    HOLD_LOGGED = 2            # kept back, has an LSN
    HOLD_READING = 3           # kept back, waits for the disk


cdef struct Bed:
    Reactor reactor
    Volume volume
    ClientHooks hooks
    uint8_t *memory
    bint gate
    uint32_t hold
    int fail                   # rc of every request, 0 for none
    int fail_states            # the same of looks at states
    BlockReq *held
    uint8_t **taken            # pages kept away from everybody
    uint32_t taken_count
    uint64_t requests


cdef inline Bed *bed_of(BlockReq *req) noexcept nogil:
    return <Bed *>req.volume.reactor.core


cdef void carry_out(Bed *bed, BlockReq *req) noexcept nogil:
    cdef int rc = bed.fail
    cdef uint32_t i, low, high
    cdef uint32_t at = req.skip
    if rc == 0 and req.first_page + req.page_count > bed.volume.pages:
        rc = -EINVAL
    while req.kind == REQ_WRITE and req.compare != NULL and rc == 0 and at < req.page_count * PAGE - req.cut:
        if bed.memory[req.first_page * PAGE + at] != req.compare[at - req.skip]:
            req.bad_page = at - req.skip
            rc = -EILSEQ
        at += 1
    if req.kind == REQ_ZERO:
        if rc == 0:
            memset(bed.memory + req.first_page * PAGE, 0, <uint64_t>req.page_count * PAGE)
        req.done(req, rc)
        return
    for i in range(req.page_count):
        if req.kind == REQ_WRITE:
            low = req.skip if i == 0 else 0
            high = PAGE - (req.cut if i == req.page_count - 1 else 0)
            if rc == 0:
                memcpy(bed.memory + (req.first_page + i) * PAGE + low, req.pages[i] + low, high - low)
            page_drop(&bed.reactor.pool, req.pages[i])
        elif req.kind == REQ_READ and rc == 0:
            req.pages[i] = page_take(&bed.reactor.pool)
            if req.pages[i] == NULL:
                rc = -ENOMEM
                while i > 0:
                    i -= 1
                    page_drop(&bed.reactor.pool, req.pages[i])
                break
            memcpy(req.pages[i], bed.memory + (req.first_page + i) * PAGE, PAGE)
    req.done(req, rc)


cdef void bed_submit(BlockReq *req) noexcept nogil:
    cdef Bed *bed = bed_of(req)
    bed.requests += 1
    if bed.hold == HOLD_NOT:
        carry_out(bed, req)
        return
    req.tag = bed.hold
    req.prev = NULL
    req.next = bed.held
    if bed.held != NULL:
        bed.held.prev = req
    bed.held = req


cdef void unhold(Bed *bed, BlockReq *req) noexcept nogil:
    if req.prev != NULL:
        req.prev.next = req.next
    else:
        bed.held = req.next
    if req.next != NULL:
        req.next.prev = req.prev


cdef bint bed_abort(BlockReq *req) noexcept nogil:
    cdef Bed *bed = bed_of(req)
    cdef uint32_t i
    if req.tag == HOLD_LOGGED or req.tag == HOLD_READING:
        req.taken_back = req.tag == HOLD_READING
        return False
    unhold(bed, req)
    if req.kind == REQ_WRITE:
        for i in range(req.page_count):
            page_drop(&bed.reactor.pool, req.pages[i])
    req.done(req, -ECANCELED)
    return True


cdef bint bed_gate(Volume *volume) noexcept nogil:
    return (<Bed *>volume.reactor.core).gate


cdef void bed_states(StateLook *look) noexcept nogil:
    """Pages that are not all zeros hold data."""
    cdef Bed *bed = <Bed *>look.volume.reactor.core
    cdef bint data
    look.count = 0
    while look.at < look.end and bed.fail_states == 0:
        data = memcmp(bed.memory + look.at * PAGE, bed.reactor.pool.zero_page, PAGE) != 0
        if look.count == 0 or (look.runs[look.count - 1] & 1) != data:
            if look.count == look.room:
                break
            look.runs[look.count] = data
            look.count += 1
        look.runs[look.count - 1] += 2
        look.at += 1
    look.done(look, bed.fail_states)


cdef void bed_upcall(
    void *owner, Client *client, uint32_t tag, const uint8_t *head, const uint8_t *data, uint32_t length
) noexcept nogil:
    cdef Bed *bed = <Bed *>owner
    cdef Mail mail
    memset(&mail, 0, sizeof(Mail))
    mail.kind = UP_UPCALL
    mail.a = client.key
    mail.b = tag
    mail.length = 48 + length
    mail.data = <uint8_t *>malloc(mail.length)
    memcpy(mail.data, head, 48)
    if length != 0:
        memcpy(mail.data + 48, data, length)
    send_up(&bed.reactor, &mail)


cdef void bed_ended(void *owner, uint64_t key, int cause) noexcept nogil:
    cdef Bed *bed = <Bed *>owner
    cdef Mail mail
    memset(&mail, 0, sizeof(Mail))
    mail.kind = UP_ENDED
    mail.a = key
    mail.rc = cause
    send_up(&bed.reactor, &mail)


cdef void take_pages(Bed *bed, uint64_t leave) noexcept nogil:
    """Leave only so many pages in the pool; a large number gives all back."""
    cdef uint8_t *page
    while bed.taken_count != 0 and bed.reactor.pool.free_count < leave:
        bed.taken_count -= 1
        page_drop(&bed.reactor.pool, bed.taken[bed.taken_count])
    while bed.reactor.pool.free_count > leave:
        page = page_take(&bed.reactor.pool)
        bed.taken[bed.taken_count] = page
        bed.taken_count += 1


cdef void on_mail(Reactor *reactor, Mail *mail) noexcept nogil:
    cdef Bed *bed = <Bed *>reactor.core
    cdef BlockReq *req
    cdef Client *client
    cdef Session *session
    cdef Queue *queue
    cdef Mail up
    cdef uint32_t sense
    if mail.kind == MAIL_STOP:
        reactor.stopping = True
    elif mail.kind == MAIL_ADOPT:
        session = session_adopt(
            reactor, &bed.volume, <SessionConfig *>mail.data, mail.data + sizeof(SessionConfig),
            <uint32_t>(mail.length - sizeof(SessionConfig)), &bed.hooks
        )
        if session == NULL:
            memset(&up, 0, sizeof(Mail))
            up.kind = UP_REFUSED
            up.a = mail.a
            send_up(reactor, &up)
    elif mail.kind == MAIL_ADOPT_QUEUE:
        if queue_adopt(
            reactor, &bed.volume, <QueueConfig *>mail.data, mail.data + sizeof(QueueConfig),
            <uint32_t>(mail.length - sizeof(QueueConfig)), &bed.hooks
        ) == NULL:
            memset(&up, 0, sizeof(Mail))
            up.kind = UP_REFUSED
            up.a = mail.a
            send_up(reactor, &up)
    elif mail.kind == MAIL_ADOPT_NBD:
        if nbd_adopt(
            reactor, &bed.volume, <NbdConfig *>mail.data, mail.data + sizeof(NbdConfig),
            <uint32_t>(mail.length - sizeof(NbdConfig)), &bed.hooks
        ) == NULL:
            memset(&up, 0, sizeof(Mail))
            up.kind = UP_REFUSED
            up.a = mail.a
            send_up(reactor, &up)
    elif mail.kind == MAIL_ANSWER or mail.kind == MAIL_ANSWER_RAW:
        session = session_find(&bed.hooks, mail.a)
        if session != NULL and mail.kind == MAIL_ANSWER:
            sense = <uint32_t>mail.c
            session_answer(
                session, <uint32_t>mail.b, <uint8_t>mail.flags, mail.data, sense, mail.data + sense,
                <uint32_t>(mail.length - sense)
            )
        elif session != NULL:
            session_answer_raw(session, <uint32_t>mail.b, mail.data, mail.data + 48, <uint32_t>(mail.length - 48))
        client = client_find(&bed.hooks, mail.a)
        if client != NULL and client.kind.protocol == CLIENT_NVME:
            queue_answer(<Queue *>client, <uint32_t>mail.b, <uint32_t>mail.flags, mail.data, <uint32_t>mail.length)
    elif mail.kind == MAIL_ATTENTION:
        session = session_find(&bed.hooks, mail.a)
        if session != NULL:
            session.attention |= <uint32_t>mail.b
    elif mail.kind == MAIL_END:
        client = client_find(&bed.hooks, mail.a)
        if client != NULL:
            client_fail(client, <int>mail.b)
    elif mail.kind == MAIL_ABORT:
        queue = queue_find(&bed.hooks, mail.a)
        memset(&up, 0, sizeof(Mail))
        up.kind = UP_ABORT
        up.a = 1 if queue != NULL and queue_abort(queue, <uint16_t>mail.b) else 0
        send_up(reactor, &up)
    elif mail.kind == MAIL_PREEMPT:
        client = client_find(&bed.hooks, mail.a)
        if client != NULL and client.kind.preempted != NULL:
            client.kind.preempted(client)
    elif mail.kind == MAIL_END_ALL:
        client_end_all(&bed.hooks, &bed.volume)
    elif mail.kind == MAIL_GATE:
        bed.gate = mail.a != 0
    elif mail.kind == MAIL_HOLD:
        bed.hold = <uint32_t>mail.a
    elif mail.kind == MAIL_RELEASE:
        while bed.held != NULL:
            req = bed.held
            unhold(bed, req)
            carry_out(bed, req)
    elif mail.kind == MAIL_FAIL:
        if mail.a != 0:
            bed.fail_states = mail.rc
        else:
            bed.fail = mail.rc
    elif mail.kind == MAIL_STANDBY:
        bed.volume.grant_boot = now_boot(reactor) + mail.a
    elif mail.kind == MAIL_TAKE_PAGES:
        take_pages(bed, mail.a)
    elif mail.kind == MAIL_SYNC:
        memset(&up, 0, sizeof(Mail))
        up.kind = UP_SYNC
        up.token = mail.token
        up.a = reactor.pool.free_count
        up.b = bed.hooks.count
        up.c = bed.requests
        up.d = bed.volume.sessions
        send_up(reactor, &up)
    free(mail.data)


cdef class Testbed:
    """One reactor, one volume of ``pages`` times 4096 bytes of zeros.

    ``run`` blocks in the thread that calls it until ``stop``; all other methods are for one other thread. ``events``
    gives what came up since the last call.
    """

    cdef Bed *bed
    cdef uint64_t token
    cdef bint opened

    def __cinit__(self):
        self.bed = NULL
        self.opened = False

    def __init__(self, ring, *, pool_pages, pages, block_size):
        cdef int rc
        self.bed = <Bed *>calloc(1, sizeof(Bed))
        if self.bed == NULL:
            raise MemoryError
        rc = reactor_open(&self.bed.reactor, <void *><uint64_t>ring, NULL, pool_pages, 0)
        if rc < 0:
            raise OSError(-rc, "reactor_open")
        self.opened = True
        self.bed.memory = <uint8_t *>calloc(pages, PAGE)
        self.bed.taken = <uint8_t **>calloc(pool_pages, sizeof(uint8_t *))
        if self.bed.memory == NULL or self.bed.taken == NULL:
            raise MemoryError
        self.bed.reactor.core = self.bed
        self.bed.reactor.on_mail = on_mail
        self.bed.volume.reactor = &self.bed.reactor
        self.bed.volume.index = 1
        self.bed.volume.pages = pages
        self.bed.volume.served = pages
        self.bed.volume.block_size = block_size
        self.bed.gate = True
        self.bed.hooks.owner = self.bed
        self.bed.hooks.upcall = bed_upcall
        self.bed.hooks.ended = bed_ended
        self.bed.hooks.submit = bed_submit
        self.bed.hooks.abort = bed_abort
        self.bed.hooks.gate_open = bed_gate
        self.bed.hooks.states = bed_states

    def run(self):
        cdef int rc
        with nogil:
            rc = reactor_run(&self.bed.reactor)
        if rc < 0:
            raise OSError(-rc, "reactor_run")

    def close(self):
        """After ``run`` has returned."""
        if self.bed != NULL:
            if self.opened:
                reactor_close(&self.bed.reactor)
            free(self.bed.memory)
            free(self.bed.taken)
            free(self.bed)
            self.bed = NULL

    def fileno(self):
        """Readable when there are events."""
        return self.bed.reactor.mail.up_fd

    def memory(self, Py_ssize_t offset, Py_ssize_t length):
        """Bytes of the volume; only while nothing is written."""
        return (<const uint8_t *>self.bed.memory)[offset:offset + length]

    def fill(self, Py_ssize_t offset, const uint8_t[::1] data):
        memcpy(self.bed.memory + offset, &data[0], data.shape[0])

    cdef post(self, Mail *mail, bytes data):
        cdef uint64_t one = 1
        if data:
            mail.length = len(data)
            mail.data = <uint8_t *>malloc(mail.length)
            memcpy(mail.data, <const uint8_t *>data, mail.length)
        if not ring_push(&self.bed.reactor.mail.down, mail):
            raise BufferError("the mailbox is full")
        write(self.bed.reactor.mail.down_fd, &one, 8)

    cdef command(self, uint32_t kind, uint64_t a=0, uint64_t b=0, int rc=0):
        cdef Mail mail
        memset(&mail, 0, sizeof(Mail))
        mail.kind = kind
        mail.a = a
        mail.b = b
        mail.rc = rc
        self.post(&mail, b"")

    def stop(self):
        self.command(MAIL_STOP)

    def adopt(self, fd, *, key=1, pending=b"", exp_cmd_sn=1, stat_sn=1, queue_depth=64, initiator_recv=65536,
              target_recv=262144, max_burst=262144, first_burst=65536, initial_r2t=False, immediate_data=True,
              header_digest=False, data_digest=False, keepalive_ns=0, cid=0, attention=0):
        """Hand a connected socket over; it belongs to the session from here on."""
        cdef SessionConfig config
        cdef Mail mail
        memset(&config, 0, sizeof(SessionConfig))
        config.key = key
        config.fd = fd
        config.tsih = 1
        config.cid = cid
        config.exp_cmd_sn = exp_cmd_sn
        config.stat_sn = stat_sn
        config.queue_depth = queue_depth
        config.initiator_recv_bytes_max = initiator_recv
        config.target_recv_bytes_max = target_recv
        config.max_burst_bytes = max_burst
        config.first_burst_bytes = first_burst
        config.max_outstanding_r2t = 1
        config.initial_r2t = initial_r2t
        config.immediate_data = immediate_data
        config.header_digest = header_digest
        config.data_digest = data_digest
        config.attention = attention
        config.keepalive_ns = keepalive_ns
        memset(&mail, 0, sizeof(Mail))
        mail.kind = MAIL_ADOPT
        mail.a = key
        self.post(&mail, (<const uint8_t *>&config)[:sizeof(SessionConfig)] + pending)

    def adopt_queue(self, fd, *, key=1, pending=b"", depth=128, sq_head=1, data_align=4, flow_control=True,
                    header_digest=False, data_digest=False):
        """The same for an NVMe/TCP I/O queue whose Connect was answered."""
        cdef QueueConfig config
        cdef Mail mail
        memset(&config, 0, sizeof(QueueConfig))
        config.key = key
        config.fd = fd
        config.depth = depth
        config.sq_head = sq_head
        config.data_align = data_align
        config.flow_control = flow_control
        config.header_digest = header_digest
        config.data_digest = data_digest
        memset(&mail, 0, sizeof(Mail))
        mail.kind = MAIL_ADOPT_QUEUE
        mail.a = key
        self.post(&mail, (<const uint8_t *>&config)[:sizeof(QueueConfig)] + pending)

    def adopt_nbd(self, fd, *, key=1, pending=b"", structured=True, allocation=True, context=1, silence_ns=0):
        """The same for a client in the transmission phase of NBD."""
        cdef NbdConfig config
        cdef Mail mail
        memset(&config, 0, sizeof(NbdConfig))
        config.key = key
        config.fd = fd
        config.structured = structured
        config.allocation = allocation
        config.context = context
        config.silence_ns = silence_ns
        memset(&mail, 0, sizeof(Mail))
        mail.kind = MAIL_ADOPT_NBD
        mail.a = key
        self.post(&mail, (<const uint8_t *>&config)[:sizeof(NbdConfig)] + pending)

    def answer(self, key, tag, *, status=0, sense=b"", data_in=b""):
        cdef Mail mail
        memset(&mail, 0, sizeof(Mail))
        mail.kind = MAIL_ANSWER
        mail.a = key
        mail.b = tag
        mail.c = len(sense)
        mail.flags = status
        self.post(&mail, sense + data_in)

    def answer_raw(self, key, tag, bhs, data=b""):
        cdef Mail mail
        memset(&mail, 0, sizeof(Mail))
        mail.kind = MAIL_ANSWER_RAW
        mail.a = key
        mail.b = tag
        self.post(&mail, bhs + data)

    def attention(self, key, which):
        """What COMMAND_ATTENTION does."""
        self.command(MAIL_ATTENTION, key, which)

    def end(self, key, cause=6):
        self.command(MAIL_END, key, cause)

    def end_all(self):
        """What closing the volume does."""
        self.command(MAIL_END_ALL)

    def set_gate(self, is_open):
        self.command(MAIL_GATE, 1 if is_open else 0)

    def hold(self, how):
        """Keep requests back: 0 no, 1 before they have an LSN, 2 after."""
        self.command(MAIL_HOLD, how)

    def release(self):
        """Carry out what is kept back."""
        self.command(MAIL_RELEASE)

    def fail_with(self, rc, *, states=False):
        """Every request, or every look at states, fails with this -errno; 0 ends that."""
        self.command(MAIL_FAIL, 1 if states else 0, 0, rc)

    def promise(self, ns):
        """Another primary has our promise for so long: we are standby."""
        self.command(MAIL_STANDBY, ns)

    def abort(self, key, cid):
        """Take back a command of an NVMe/TCP queue; sends one event ("aborted", whether it was)."""
        self.command(MAIL_ABORT, key, cid)

    def preempt(self, key):
        """Somebody preempted the initiator of a connection, and aborts its commands."""
        self.command(MAIL_PREEMPT, key)

    def leave_pages(self, count):
        """Take pages away until so many are free."""
        self.command(MAIL_TAKE_PAGES, count)

    def ask_counts(self):
        """Sends one event ("counts", token, free pages, sessions, requests, sessions of the volume)."""
        cdef Mail mail
        memset(&mail, 0, sizeof(Mail))
        self.token += 1
        mail.kind = MAIL_SYNC
        mail.token = self.token
        self.post(&mail, b"")
        return self.token

    def events(self):
        """("upcall", key, tag, bhs, data), ("ended", key, cause), ("refused", key), ("aborted", was it) or ("counts", ...), oldest first."""
        cdef Mail mail
        found = []
        while ring_pop(&self.bed.reactor.mail.up, &mail):
            if mail.kind == UP_UPCALL:
                raw = (<const uint8_t *>mail.data)[:mail.length]
                free(mail.data)
                found.append(("upcall", mail.a, mail.b, raw[:48], raw[48:]))
            elif mail.kind == UP_ENDED:
                found.append(("ended", mail.a, mail.rc))
            elif mail.kind == UP_REFUSED:
                found.append(("refused", mail.a))
            elif mail.kind == UP_ABORT:
                found.append(("aborted", mail.a))
            else:
                found.append(("counts", mail.token, mail.a, mail.b, mail.c, mail.d))
        return found
