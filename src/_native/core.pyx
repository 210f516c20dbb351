"""The door between Python and one reactor: a thread to run it, mail down, mail up. Nothing else here knows Python."""

from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t

from sparrow._native.block cimport block_abort, block_submit
from sparrow._native.control cimport command as kinds
from sparrow._native.control.census cimport Census, census_take
from sparrow._native.control.dispatch cimport on_mail
from sparrow._native.control.open cimport abandon
from sparrow._native.events cimport (
    EVENT_BATCH_DAMAGED,
    EVENT_DISK_FAILED, EVENT_DONE, EVENT_GATE_CLOSED, EVENT_GATE_OPENED, EVENT_GRANT_LINK_LOST, EVENT_NEWER_EPOCH,
    EVENT_PAGE_DAMAGED, EVENT_PEER_LOST, EVENT_PEER_REBUILT, EVENT_POOL_FULL, EVENT_PRIMARY_LOST, EVENT_SESSION_ENDED,
    EVENT_FILES_SHORT, EVENT_RESERVATIONS, EVENT_RESIZED, EVENT_STOPPED, EVENT_SUMS_DAMAGED, EVENT_UPCALL,
)
from sparrow._native.extent.cache cimport cache_close, cache_open
from sparrow._native.extent.dirty cimport dirty_close, dirty_open
from sparrow._native.extent.read cimport read_expect, reads_close, reads_open
from sparrow._native.extent.states cimport states_look
from sparrow._native.extent.sums cimport frames_close, frames_open
from sparrow._native.front.client cimport ENDED_NO_MEMORY, Client, ClientHooks, client_fail
from sparrow._native.front.iscsi.session cimport ATTENTION_NEXUS_LOSS, ATTENTION_POWER_ON, SessionConfig
from sparrow._native.front.nvme.queue cimport QueueConfig
from sparrow._native.front.nbd.link cimport NbdConfig
from sparrow._native.gate cimport gate_is_open
from sparrow._native.io.ops cimport Io
from sparrow._native.layout cimport SP_RESERVATION_REGISTRANT_SIZE
from sparrow._native.merge cimport merges_close, merges_open
from sparrow._native.mailbox cimport Mail, mailbox_ring_down, ring_pop, ring_push
from sparrow._native.reactor cimport Reactor, now_boot, reactor_close, reactor_open, reactor_run, send_up
from sparrow._native.replication.grants cimport grants_hurry, grants_open
from sparrow._native.replication.promises cimport promise_stands
from sparrow._native.sys cimport calloc, free, malloc, memcpy, memset
from sparrow._native.volume cimport Core as CoreStruct, Volume
from sparrow._native.wal.batches cimport batches_close
from sparrow._native.wal.log cimport logs_open
from sparrow._native.wal.windows cimport windows_free

cdef enum:
    VOLUMES_MAX = 1024
    MERGES_MAX = 256           # writes of parts of pages that know what is under them

COMMANDS = {
    name: value
    for name, value in {
        "open": kinds.COMMAND_OPEN,
        "close": kinds.COMMAND_CLOSE,
        "status": kinds.COMMAND_STATUS,
        "statuses": kinds.COMMAND_STATUSES,
        "set_state": kinds.COMMAND_SET_STATE,
        "mend_superblock": kinds.COMMAND_MEND_SUPERBLOCK,
        "set_line": kinds.COMMAND_SET_LINE,
        "fence": kinds.COMMAND_FENCE,
        "begin_term": kinds.COMMAND_BEGIN_TERM,
        "read_log": kinds.COMMAND_READ_LOG,
        "append_log": kinds.COMMAND_APPEND_LOG,
        "check_at": kinds.COMMAND_CHECK_AT,
        "join": kinds.COMMAND_JOIN,
        "prepare": kinds.COMMAND_PREPARE,
        "prepared": kinds.COMMAND_PREPARED,
        "commit_inherited": kinds.COMMAND_COMMIT_INHERITED,
        "set_membership": kinds.COMMAND_SET_MEMBERSHIP,
        "ship": kinds.COMMAND_SHIP,
        "receive": kinds.COMMAND_RECEIVE,
        "drop_peer": kinds.COMMAND_DROP_PEER,
        "peer_acked": kinds.COMMAND_PEER_ACKED,
        "grant_link": kinds.COMMAND_GRANT_LINK,
        "open_gate": kinds.COMMAND_OPEN_GATE,
        "close_gate": kinds.COMMAND_CLOSE_GATE,
        "adopt_session": kinds.COMMAND_ADOPT_SESSION,
        "adopt_queue": kinds.COMMAND_ADOPT_QUEUE,
        "adopt_nbd": kinds.COMMAND_ADOPT_NBD,
        "answer": kinds.COMMAND_ANSWER,
        "answer_raw": kinds.COMMAND_ANSWER_RAW,
        "end_session": kinds.COMMAND_END_SESSION,
        "abort_command": kinds.COMMAND_ABORT_COMMAND,
        "attention": kinds.COMMAND_ATTENTION,
        "digests": kinds.COMMAND_DIGESTS,
        "page_states": kinds.COMMAND_PAGE_STATES,
        "resize": kinds.COMMAND_RESIZE,
        "grown": kinds.COMMAND_GROWN,
        "reservations": kinds.COMMAND_RESERVATIONS,
        "log_reservations": kinds.COMMAND_LOG_RESERVATIONS,
        "pin": kinds.COMMAND_PIN,
        "unpin": kinds.COMMAND_UNPIN,
        "preempted": kinds.COMMAND_PREEMPTED,
        "mend_table": kinds.COMMAND_MEND_TABLE,
        "read_page": kinds.COMMAND_READ_PAGE,
        "repair_page": kinds.COMMAND_REPAIR_PAGE,
        "stop": kinds.COMMAND_STOP,
        "set_headroom": kinds.COMMAND_SET_HEADROOM,
        "read_sums": kinds.COMMAND_READ_SUMS,
        "mend_sums": kinds.COMMAND_MEND_SUMS,
        "mend_batch": kinds.COMMAND_MEND_BATCH,
        "check_batch": kinds.COMMAND_CHECK_BATCH,
        "check_sums": kinds.COMMAND_CHECK_SUMS,
        "check_pages": kinds.COMMAND_CHECK_PAGES,
        "set_absent": kinds.COMMAND_SET_ABSENT,
    }.items()
}

EVENTS = {
    EVENT_DONE: "done",
    EVENT_GATE_OPENED: "gate_opened",
    EVENT_GATE_CLOSED: "gate_closed",
    EVENT_PEER_LOST: "peer_lost",
    EVENT_PEER_REBUILT: "peer_rebuilt",
    EVENT_PRIMARY_LOST: "primary_lost",
    EVENT_NEWER_EPOCH: "newer_epoch",
    EVENT_DISK_FAILED: "disk_failed",
    EVENT_POOL_FULL: "pool_full",
    EVENT_PAGE_DAMAGED: "page_damaged",
    EVENT_UPCALL: "upcall",
    EVENT_SESSION_ENDED: "session_ended",
    EVENT_GRANT_LINK_LOST: "grant_link_lost",
    EVENT_STOPPED: "stopped",
    EVENT_SUMS_DAMAGED: "sums_damaged",
    EVENT_BATCH_DAMAGED: "batch_damaged",
    EVENT_RESIZED: "resized",
    EVENT_FILES_SHORT: "files_short",
    EVENT_RESERVATIONS: "reservations",
}


cdef void on_upcall(
    void *owner, Client *client, uint32_t tag, const uint8_t *head, const uint8_t *data, uint32_t length
) noexcept nogil:
    cdef CoreStruct *core = <CoreStruct *>owner
    cdef Mail mail
    memset(&mail, 0, sizeof(Mail))
    mail.kind = EVENT_UPCALL
    mail.volume = client.volume.index
    mail.a = client.key
    mail.b = tag
    # As it is now, by the clocks: what the control side was told last may be older than this command.
    mail.c = 1 if gate_is_open(client.volume) else 0
    mail.d = 1 if promise_stands(client.volume) else 0
    mail.data = <uint8_t *>malloc(48 + length)
    if mail.data == NULL:
        # Nobody would answer it, and the initiator would wait for ever.
        client_fail(client, ENDED_NO_MEMORY)
        return
    memcpy(mail.data, head, 48)
    if length > 0:
        memcpy(mail.data + 48, data, length)
    mail.length = 48 + length
    send_up(core.reactor, &mail)


cdef void on_ended(void *owner, uint64_t key, int cause) noexcept nogil:
    cdef CoreStruct *core = <CoreStruct *>owner
    cdef Mail mail
    memset(&mail, 0, sizeof(Mail))
    mail.kind = EVENT_SESSION_ENDED
    mail.a = key
    mail.b = cause
    send_up(core.reactor, &mail)


cdef class Core:
    """One reactor with its volumes. Made and closed by the control side, run by a thread of its own.

    Args:
        ring: address of a ring made by the liburing module, disabled; the running thread enables it.
        table: address of another io table instead; whoever made it gives the reactor its turns.
        pages: 4 KiB pages in the pool.
        versions: page versions not yet applied, over all volumes; ``versions_per_volume`` bounds one.
        versions_behind: as many more may a replica have that catches up.
        frames: sums blocks in memory (one covers 960 pages).
        batches: log batches in memory.
        joint_lsns: entries that a follower must be behind to write batches together.
        share_from: from so many batches under way they share flushes of the device; 0 for never.
        flush_fd: an open file on that device which nobody writes, for these flushes; -1: they go to a log.
        hold_off_ns: how long after the start nothing may open.
        rebuild_rate: bytes per second that rebuilds may copy; 0 for no cap.
        rebuild_stretch_percent: what a rebuild may make of the usual 99th percentile of clients' writes.
        wal_pin_percent: how full a log may get for the sake of a peer that is still read from it.
    """

    cdef Reactor reactor
    cdef CoreStruct core
    cdef ClientHooks hooks
    cdef bint running
    cdef bint opened

    def __cinit__(
        self,
        *,
        uint64_t ring=0,
        uintptr_t table=0,
        uint32_t pages,
        uint32_t cache_pages,
        uint32_t versions,
        uint32_t versions_per_volume,
        uint32_t versions_behind,
        uint32_t frames,
        uint32_t batches,
        uint32_t writes_max,
        uint32_t joint_lsns,
        uint32_t share_from,
        int flush_fd,
        uint64_t grant_ns,
        uint64_t fence_hold_ns,
        uint64_t repair_ns,
        uint64_t hold_off_ns,
        uint64_t rebuild_rate,
        uint32_t rebuild_stretch_percent,
        uint32_t wal_pin_percent,
    ):
        if reactor_open(&self.reactor, <void *>ring, <const Io *>table, pages, cache_pages) < 0:
            raise MemoryError(f"no memory for {pages + cache_pages} pages")
        memset(&self.core, 0, sizeof(CoreStruct))
        memset(&self.hooks, 0, sizeof(ClientHooks))
        self.opened = True
        self.reactor.core = &self.core
        self.reactor.on_mail = on_mail
        self.core.reactor = &self.reactor
        self.core.volume_room = VOLUMES_MAX
        self.core.volumes = <Volume **>calloc(VOLUMES_MAX, sizeof(Volume *))
        self.core.grant_ns = grant_ns
        self.core.fence_hold_ns = fence_hold_ns
        self.core.repair_ns = repair_ns
        self.core.hold_off_ns = now_boot(&self.reactor) + hold_off_ns
        self.core.pace.cap = rebuild_rate
        self.core.pace.stretch_percent = rebuild_stretch_percent
        self.core.wal_pin_percent = wal_pin_percent
        self.core.versions_per_volume = versions_per_volume
        self.core.versions_behind = versions_behind
        self.core.writes_max = writes_max
        self.core.joint_lsns = joint_lsns
        self.hooks.owner = &self.core
        self.hooks.upcall = on_upcall
        self.hooks.ended = on_ended
        self.hooks.submit = block_submit
        self.hooks.abort = block_abort
        self.hooks.gate_open = gate_is_open
        self.hooks.states = states_look
        self.hooks.expect = read_expect
        self.core.hooks = &self.hooks
        if (
            self.core.volumes == NULL
            or dirty_open(&self.core, versions) < 0
            or frames_open(&self.core, frames) < 0
            or cache_open(&self.core, cache_pages) < 0
            or reads_open(&self.core, 1024) < 0
            or logs_open(&self.core, batches, share_from, flush_fd) < 0
            or merges_open(&self.core, MERGES_MAX) < 0
        ):
            raise MemoryError("no memory for the core's tables")
        grants_open(&self.core)
        grants_hurry(&self.core)

    def __dealloc__(self):
        self.close()

    def close(self):
        """Give everything back; nothing can be sent or drained afterwards. Not while :meth:`run` runs."""
        if self.running or not self.opened:
            return
        self.opened = False
        dirty_close(&self.core)
        frames_close(&self.core)
        cache_close(&self.core)
        reads_close(&self.core)
        batches_close(&self.core)
        merges_close(&self.core)
        windows_free(&self.core)
        free(self.core.volumes)
        reactor_close(&self.reactor)

    @property
    def event_fd(self):
        """Readable when :meth:`drain` has something."""
        return self.reactor.mail.up_fd

    @property
    def addresses(self):
        """(reactor, core): for whoever gives this reactor its turns."""
        return <uintptr_t>&self.reactor, <uintptr_t>&self.core

    def abandon(self):
        """It will never have another turn, as if its process had died: let go of its memory without a word."""
        cdef Mail mail
        abandon(&self.core)
        while ring_pop(&self.reactor.mail.down, &mail):
            free(mail.data)
        while ring_pop(&self.reactor.mail.up, &mail):
            free(mail.data)

    @property
    def free_pages(self):
        """Pages nobody holds; racy while the reactor runs."""
        return self.reactor.pool.free_count

    @property
    def cached_pages(self):
        """Pages in the read cache; racy while the reactor runs."""
        return self.core.cache.pages

    @property
    def gathered_pages(self):
        """Pages of the read cache that were moved together so far; racy while the reactor runs."""
        return self.core.cache.gathered

    def run(self):
        """The reactor's thread: returns 0 after a stop, or -errno of the ring. Never holds the GIL meanwhile."""
        cdef int rc
        cdef Mail mail
        self.running = True
        with nogil:
            rc = reactor_run(&self.reactor)
        self.running = False
        return rc

    def held(self):
        """What was taken and never put back, by kind; asked when :meth:`run` has returned after a stop, before a close."""
        cdef Census census
        if not self.opened:
            return {}
        assert not self.running, "the reactor owns these"
        census_take(&self.core, &census)
        return {name: count for name, count in census.items() if count != 0}

    def post(self, uint32_t kind, uint32_t volume, uint64_t token, uint64_t a=0, uint64_t b=0, uint64_t c=0,
             uint64_t d=0, uint32_t flags=0, bytes data=b""):
        """Send a command; False when the mailbox is full (the caller waits for answers then) or the core is closed."""
        cdef Mail mail
        cdef const uint8_t *view = <const uint8_t *><const char *>data
        if not self.opened:
            return False
        memset(&mail, 0, sizeof(Mail))
        mail.kind = kind
        mail.volume = volume
        mail.token = token
        mail.a = a
        mail.b = b
        mail.c = c
        mail.d = d
        mail.flags = flags
        mail.length = len(data)
        if mail.length > 0:
            mail.data = <uint8_t *>malloc(mail.length)
            if mail.data == NULL:
                raise MemoryError
            memcpy(mail.data, view, mail.length)
        if not ring_push(&self.reactor.mail.down, &mail):
            free(mail.data)
            return False
        mailbox_ring_down(&self.reactor.mail)
        return True

    def drain(self):
        """Everything that came up: tuples (kind, volume, token, rc, a, b, c, d, flags, payload)."""
        cdef Mail mail
        cdef list out = []
        while self.opened and ring_pop(&self.reactor.mail.up, &mail):
            payload = b""
            if mail.data != NULL:
                payload = PyBytes_FromStringAndSize(<const char *>mail.data, mail.length)
                free(mail.data)
            out.append(
                (mail.kind, mail.volume, mail.token, mail.rc, mail.a, mail.b, mail.c, mail.d, mail.flags, payload)
            )
        return out


cdef int nexus_bytes(uint8_t *to, bytes nexus) except -1:
    assert len(nexus) in (0, SP_RESERVATION_REGISTRANT_SIZE), "a nexus is a whole record, or none"
    memcpy(to, <const uint8_t *><const char *>nexus, len(nexus))
    return 0


def session_config(
    *, uint64_t key, uint32_t tsih, uint32_t cid, uint32_t exp_cmd_sn, uint32_t stat_sn, uint32_t queue_depth,
    uint32_t initiator_recv_bytes_max, uint32_t target_recv_bytes_max, uint32_t max_burst_bytes,
    uint32_t first_burst_bytes, uint32_t max_outstanding_r2t, bint initial_r2t, bint immediate_data,
    bint header_digest, bint data_digest, bint reinstated, bytes nexus=b"",
):
    """The bytes of a SessionConfig, as ADOPT_SESSION wants them in front of its payload."""
    cdef SessionConfig config
    memset(&config, 0, sizeof(SessionConfig))
    config.key = key
    config.fd = -1
    config.tsih = tsih
    config.cid = cid
    config.exp_cmd_sn = exp_cmd_sn
    config.stat_sn = stat_sn
    config.queue_depth = queue_depth
    config.initiator_recv_bytes_max = initiator_recv_bytes_max
    config.target_recv_bytes_max = target_recv_bytes_max
    config.max_burst_bytes = max_burst_bytes
    config.first_burst_bytes = first_burst_bytes
    config.max_outstanding_r2t = max_outstanding_r2t
    config.initial_r2t = initial_r2t
    config.immediate_data = immediate_data
    config.header_digest = header_digest
    config.data_digest = data_digest
    config.attention = ATTENTION_NEXUS_LOSS if reinstated else ATTENTION_POWER_ON
    nexus_bytes(config.nexus, nexus)
    return PyBytes_FromStringAndSize(<const char *>&config, sizeof(SessionConfig))


def queue_config(
    *, uint64_t key, uint32_t depth, uint32_t sq_head, uint32_t data_align, bint flow_control, bint header_digest,
    bint data_digest, bytes nexus=b"",
):
    """The bytes of a QueueConfig, as ADOPT_QUEUE wants them in front of its payload."""
    cdef QueueConfig config
    memset(&config, 0, sizeof(QueueConfig))
    config.key = key
    config.fd = -1
    config.depth = depth
    config.sq_head = sq_head
    config.data_align = data_align
    config.flow_control = flow_control
    config.header_digest = header_digest
    config.data_digest = data_digest
    nexus_bytes(config.nexus, nexus)
    return PyBytes_FromStringAndSize(<const char *>&config, sizeof(QueueConfig))


def nbd_config(*, uint64_t key, bint structured, bint allocation, uint32_t context):
    """The bytes of an NbdConfig, as ADOPT_NBD wants them in front of its payload."""
    cdef NbdConfig config
    memset(&config, 0, sizeof(NbdConfig))
    config.key = key
    config.fd = -1
    config.structured = structured
    config.allocation = allocation
    config.context = context
    return PyBytes_FromStringAndSize(<const char *>&config, sizeof(NbdConfig))
