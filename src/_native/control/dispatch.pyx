"""One function per command that answers at once; those that wait are in open, terms and pages."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from sparrow._native.control.command cimport (
    COMMAND_ABORT_COMMAND, COMMAND_ADOPT_NBD, COMMAND_ADOPT_QUEUE, COMMAND_ADOPT_SESSION, COMMAND_ANSWER,
    COMMAND_ANSWER_RAW, COMMAND_APPEND_LOG, COMMAND_ATTENTION, COMMAND_BEGIN_TERM, COMMAND_CHECK_AT, COMMAND_CLOSE,
    COMMAND_CLOSE_GATE, COMMAND_COMMIT_INHERITED, COMMAND_DIGESTS, COMMAND_DROP_PEER, COMMAND_GROWN,
    COMMAND_LOG_RESERVATIONS, COMMAND_PAGE_STATES, COMMAND_RESERVATIONS, COMMAND_RESIZE, COMMAND_PREPARED,
    COMMAND_PREPARE, COMMAND_END_SESSION, COMMAND_FENCE, COMMAND_GRANT_LINK, COMMAND_JOIN, COMMAND_OPEN,
    COMMAND_OPEN_GATE, COMMAND_PEER_ACKED, COMMAND_PIN, COMMAND_PREEMPTED, COMMAND_READ_LOG, COMMAND_READ_PAGE,
    COMMAND_RECEIVE, COMMAND_REPAIR_PAGE, COMMAND_SET_ABSENT, COMMAND_SET_HEADROOM, COMMAND_SET_LINE,
    COMMAND_SET_MEMBERSHIP, COMMAND_SET_STATE, COMMAND_MEND_SUPERBLOCK, COMMAND_CHECK_BATCH, COMMAND_CHECK_PAGES,
    COMMAND_CHECK_SUMS, COMMAND_MEND_BATCH, COMMAND_MEND_SUMS, COMMAND_MEND_TABLE, COMMAND_READ_SUMS, COMMAND_SHIP,
    COMMAND_STATUS, COMMAND_STATUSES, COMMAND_STOP, COMMAND_UNPIN, Command, command_done, command_new,
)
from sparrow._native.control.mend cimport do_mend_sums, do_read_sums
from sparrow._native.control.open cimport do_close, do_open
from sparrow._native.control.states cimport do_states
from sparrow._native.control.pages cimport do_digests, do_read_page, do_repair
from sparrow._native.control.prepare cimport do_prepare, do_prepared
from sparrow._native.control.report cimport report_status, report_statuses
from sparrow._native.control.reserve cimport (
    do_log_reservations, do_mend_table, do_reservations, pin_command, unpin_command,
)
from sparrow._native.control.ring cimport do_check_batch, do_mend_batch
from sparrow._native.control.scrub cimport do_check_pages, do_check_sums
from sparrow._native.control.terms cimport (
    do_append_log, do_begin_term, do_commit_inherited, do_fence, do_join, do_read_log,
)
from sparrow._native.events cimport done_up
from sparrow._native.extent.absence cimport absence_grow, absence_set
from sparrow._native.extent.room cimport RESERVE_PAGES, all_short, room_update
from sparrow._native.extent.sums cimport FRAME_PAGES
from sparrow._native.front.client cimport CLIENT_NVME, ENDED_COMMAND, Client, ClientHooks, client_fail, client_find
from sparrow._native.front.iscsi.session cimport (
    ATTENTION_TOLD, Session, SessionConfig, session_adopt, session_answer, session_answer_raw,
    session_find,
)
from sparrow._native.front.nbd.link cimport Link, NbdConfig, nbd_adopt
from sparrow._native.front.nvme.queue cimport Queue, QueueConfig, queue_abort, queue_adopt, queue_find
from sparrow._native.front.nvme.upcall cimport queue_answer
from sparrow._native.gate cimport gate_allow, gate_close, gate_update
from sparrow._native.layout cimport SP_ENTRY_RESIZE, SP_LINE_BYTES_MAX, SP_STATE_CLEAN
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport Reactor, Timer, now_boot, task_queue, timer_set
from sparrow._native.replication.grants cimport grant_link, grants_close, grants_hurry
from sparrow._native.replication.peers cimport peer_at, peers_name
from sparrow._native.replication.receive cimport follow_start
from sparrow._native.replication.ship cimport LOST_DROPPED, ship_drop, ship_start
from sparrow._native.resize cimport resize_grown, resize_room
from sparrow._native.sys cimport EAGAIN, EINVAL, EIO, ENOENT, ENOMEM, ENOSPC, EPIPE, ESTALE, free, memcpy, memset
from sparrow._native.volume cimport PEERS_MAX, BasePlan, Core, Peer, Volume, Waiter
from sparrow._native.waiters cimport waiter_add
from sparrow._native.wal.log cimport log_append, log_check_at
from sparrow._native.wal.reach cimport reach_forget
from sparrow._native.wal.superblock cimport super_write

cdef uint64_t POLL_NS = 2000000

cdef void on_mail(Reactor *reactor, Mail *mail) noexcept nogil:
    cdef Core *core = <Core *>reactor.core
    cdef Volume *volume = NULL
    cdef uint64_t length = 0
    cdef uint8_t *data
    if mail.kind == COMMAND_OPEN:
        do_open(core, mail)
        return
    if mail.kind == COMMAND_STOP:
        do_stop(core, mail)
        return
    if mail.kind == COMMAND_STATUSES:
        data = report_statuses(core, mail.a, &length)
        done_up(core.reactor, mail.token, 0 if data != NULL else -ENOMEM, core.told_serial, 0, 0, data, length)
        free(mail.data)
        return
    if mail.kind == COMMAND_SET_HEADROOM:
        set_headroom(core, mail)
        return
    if mail.kind == COMMAND_GRANT_LINK:
        if core.leaving:
            core.reactor.io.close(&core.reactor.io, <int>mail.a)
            reply(core, mail, -EPIPE, 0, 0, 0)
            return
        reply(core, mail, grant_link(core, <int>mail.a, mail.b != 0, <uint32_t>mail.c), 0, 0, 0)
        return
    if mail.kind == COMMAND_PIN:
        reply(core, mail, pin_command(core, mail.a, <uint32_t>mail.b), 0, 0, 0)
        return
    if mail.kind == COMMAND_UNPIN:
        unpin_command(core, mail.a)
        reply(core, mail, 0, 0, 0, 0)
        return
    if mail.kind == COMMAND_PREEMPTED:
        preempted(core, mail)
        return
    if mail.kind == COMMAND_ABORT_COMMAND:
        abort_command(core, mail)
        return
    if mail.kind in (COMMAND_ANSWER, COMMAND_ANSWER_RAW, COMMAND_ATTENTION, COMMAND_END_SESSION):
        to_session(core, mail)
        return
    if mail.volume > 0 and mail.volume < core.volume_room:
        volume = core.volumes[mail.volume]
    if volume == NULL or not volume.opened or volume.closing:
        if mail.kind in (COMMAND_SHIP, COMMAND_ADOPT_SESSION, COMMAND_ADOPT_QUEUE, COMMAND_ADOPT_NBD, COMMAND_RECEIVE):
            core.reactor.io.close(&core.reactor.io, <int>(mail.c if mail.kind == COMMAND_SHIP else mail.a))
        reply(core, mail, -ENOENT, 0, 0, 0)
        return
    to_volume(core, volume, mail)


cdef void do_stop(Core *core, Mail *mail) noexcept nogil:
    """The volumes were closed. Sessions and links end in their own turns: nothing of them outlives the reactor."""
    cdef ClientHooks *hooks = <ClientHooks *>core.hooks
    cdef Client *client = hooks.first
    cdef Command *command = command_new(core, NULL, mail)
    if command == NULL:
        return
    core.leaving = True
    while client != NULL:
        client_fail(client, ENDED_COMMAND)
        client = client.next
    grants_close(core)
    command.timer.fire = on_stopping
    on_stopping(&command.timer)


cdef void on_stopping(Timer *timer) noexcept nogil:
    cdef Command *command = <Command *>timer.owner
    cdef Core *core = command.core
    if (<ClientHooks *>core.hooks).count > 0 or core.grants != NULL:
        timer_set(core.reactor, timer, now_boot(core.reactor) + POLL_NS)
        return
    core.reactor.stopping = True
    command_done(command, 0, 0, 0, 0, NULL, 0)


cdef void reply(Core *core, Mail *mail, int rc, uint64_t a, uint64_t b, uint64_t c) noexcept nogil:
    """Answer a command that did not wait; mail without a token wants no answer."""
    if mail.token != 0:
        done_up(core.reactor, mail.token, rc, a, b, c, NULL, 0)
    free(mail.data)


cdef void to_volume(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    cdef uint64_t length = 0
    cdef uint8_t *data
    cdef uint32_t check = 0
    cdef uint32_t kind = mail.kind
    cdef Peer *peer
    if kind == COMMAND_CLOSE:
        do_close(core, volume, mail)
    elif kind == COMMAND_STATUS:
        data = report_status(volume, &length)
        done_up(core.reactor, mail.token, 0 if data != NULL else -ENOMEM, 0, 0, 0, data, length)
        free(mail.data)
    elif kind == COMMAND_SET_STATE:
        volume.super.now.state = <uint32_t>mail.a
        if mail.a == SP_STATE_CLEAN:
            # Somebody takes the pages as they are.
            reach_forget(volume)
        save(core, volume, mail)
    elif kind == COMMAND_MEND_SUPERBLOCK:
        # What is so now is written, not what whoever asks was told a moment ago: a rebuild may have begun since.
        if volume.suspect:
            reply(core, mail, -EAGAIN, 0, 0, 0)
        else:
            save(core, volume, mail)
    elif kind == COMMAND_SET_LINE:
        if mail.length > SP_LINE_BYTES_MAX:
            reply(core, mail, -EINVAL, 0, 0, 0)
            return
        memset(volume.super.now.line, 0, SP_LINE_BYTES_MAX)
        memcpy(volume.super.now.line, mail.data, mail.length)
        volume.super.now.line_bytes = <uint32_t>mail.length
        save(core, volume, mail)
    elif kind == COMMAND_SET_ABSENT:
        # Payload: uuids; flags: 1 when the line names no other member. A map, or a part of the log, that is not there
        # costs a longer rebuild, nothing else.
        volume.alone = (mail.flags & 1) != 0
        if absence_set(volume, mail.data, <uint32_t>(mail.length // 16)) > 0:
            save(core, volume, mail)
        else:
            reply(core, mail, 0, 0, 0, 0)
    elif kind == COMMAND_FENCE:
        do_fence(core, volume, mail)
    elif kind == COMMAND_BEGIN_TERM:
        do_begin_term(core, volume, mail)
    elif kind == COMMAND_READ_LOG:
        do_read_log(core, volume, mail)
    elif kind == COMMAND_APPEND_LOG:
        do_append_log(core, volume, mail)
    elif kind == COMMAND_CHECK_AT:
        if log_check_at(volume, mail.a, &check):
            reply(core, mail, 0, 1, check, 0)
        else:
            reply(core, mail, 0, 0, 0, 0)
    elif kind == COMMAND_JOIN:
        do_join(core, volume, mail)
    elif kind == COMMAND_PREPARE:
        do_prepare(core, volume, mail)
    elif kind == COMMAND_PREPARED:
        do_prepared(core, volume, mail)
    elif kind == COMMAND_COMMIT_INHERITED:
        do_commit_inherited(core, volume, mail)
    elif kind == COMMAND_SET_MEMBERSHIP:
        reply(core, mail, set_membership(core, volume, mail), volume.commit_lsn, 0, 0)
    elif kind == COMMAND_SHIP:
        ship(core, volume, mail)
    elif kind == COMMAND_RECEIVE:
        follow(core, volume, mail)
    elif kind == COMMAND_DROP_PEER:
        peer = peer_at(volume, mail.a)
        if peer != NULL:
            ship_drop(peer, LOST_DROPPED)
        reply(core, mail, 0, 0, 0, 0)
    elif kind == COMMAND_PEER_ACKED:
        peer_acked(core, volume, mail)
    elif kind == COMMAND_OPEN_GATE:
        if not volume.primary or volume.term_start_lsn == 0 or volume.commit_lsn < volume.term_start_lsn:
            reply(core, mail, -ESTALE, 0, 0, 0)
            return
        if not gate_allow(volume, now_boot(core.reactor) + mail.a * 1000000):
            reply(core, mail, -ESTALE, 0, 0, 0)
            return
        grants_hurry(core)
        reply(core, mail, 0, 0, 0, 0)
    elif kind == COMMAND_CLOSE_GATE:
        gate_close(volume, <int>mail.a)
        reply(core, mail, 0, 0, 0, 0)
    elif kind == COMMAND_ADOPT_SESSION:
        adopt(core, volume, mail)
    elif kind == COMMAND_ADOPT_NBD:
        adopt_nbd(core, volume, mail)
    elif kind == COMMAND_ADOPT_QUEUE:
        adopt_queue(core, volume, mail)
    elif kind == COMMAND_RESIZE:
        do_resize(core, volume, mail)
    elif kind == COMMAND_RESERVATIONS:
        do_reservations(core, volume, mail)
    elif kind == COMMAND_LOG_RESERVATIONS:
        do_log_reservations(core, volume, mail)
    elif kind == COMMAND_MEND_TABLE:
        do_mend_table(core, volume, mail)
    elif kind == COMMAND_GROWN:
        # The maps first: what is written into the new part has its bits.
        absence_grow(volume, mail.a // PAGE)
        resize_grown(volume, mail.a // PAGE)
        reply(core, mail, 0, 0, 0, 0)
    elif kind == COMMAND_PAGE_STATES:
        do_states(core, volume, mail)
    elif kind == COMMAND_DIGESTS:
        do_digests(core, volume, mail)
    elif kind == COMMAND_READ_PAGE:
        do_read_page(core, volume, mail)
    elif kind == COMMAND_REPAIR_PAGE:
        do_repair(core, volume, mail)
    elif kind == COMMAND_READ_SUMS:
        do_read_sums(core, volume, mail)
    elif kind == COMMAND_MEND_SUMS:
        do_mend_sums(core, volume, mail)
    elif kind == COMMAND_MEND_BATCH:
        do_mend_batch(core, volume, mail)
    elif kind == COMMAND_CHECK_BATCH:
        do_check_batch(core, volume, mail)
    elif kind == COMMAND_CHECK_SUMS:
        do_check_sums(core, volume, mail)
    elif kind == COMMAND_CHECK_PAGES:
        do_check_pages(core, volume, mail)
    else:
        reply(core, mail, -EINVAL, 0, 0, 0)


# ---------------------------------------------------------------- size

cdef void set_headroom(Core *core, Mail *mail) noexcept nogil:
    """a pages, of the volumes whose indices are the payload, u32 each: all those of one file system at once."""
    cdef const uint32_t *indices = <const uint32_t *>mail.data
    cdef Volume *volume
    cdef uint64_t i
    for i in range(mail.length // sizeof(uint32_t)):
        volume = core.volumes[indices[i]] if indices[i] < core.volume_room else NULL
        if volume == NULL or not volume.opened or volume.closing:
            continue
        volume.headroom = mail.a
        room_update(volume)
        if volume.follow != NULL:
            task_queue(core.reactor, &volume.follow.task)
    reply(core, mail, 0, 0, 0, 0)


cdef bint short_for(const Volume *volume, uint64_t pages) noexcept nogil:
    """Would a replica that is needed be left below its reserve by so many pages of sums?"""
    cdef int i
    if volume.pool_full or volume.headroom < RESERVE_PAGES + pages:
        return True
    for i in range(PEERS_MAX):
        if (
            volume.peers[i] != NULL and volume.peers[i].needed and volume.peers[i].ship != NULL
            and volume.peers[i].headroom < RESERVE_PAGES + pages
        ):
            return True
    return all_short(volume, RESERVE_PAGES + pages)


cdef void do_resize(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    """a bytes. Answered with its LSN when the entry is committed; with 0 when the volume is as long already."""
    cdef Command *command
    cdef uint64_t pages = mail.a // PAGE
    cdef uint64_t lsn = 0
    cdef int rc = 0
    if not volume.primary or volume.term_start_lsn == 0 or volume.commit_lsn < volume.term_start_lsn:
        rc = -ESTALE
    elif mail.a % PAGE != 0 or pages < volume.pages or pages > volume.file_pages:
        rc = -EINVAL
    elif not volume.writable or not resize_room(volume, 1):
        rc = -EAGAIN
    elif volume.served >= pages:
        reply(core, mail, 0, 0, 0, 0)
        return
    elif short_for(volume, (pages - volume.pages) // FRAME_PAGES + 1):
        rc = -ENOSPC
    if rc < 0:
        reply(core, mail, rc, volume.super.now.promised_epoch, 0, 0)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    if pages > volume.pages:
        lsn = log_append(volume, SP_ENTRY_RESIZE, pages, 0, NULL)
        if lsn == 0:
            command_done(command, -EAGAIN, 0, 0, 0, NULL, 0)
            return
    else:
        # Logged already, by somebody whose answer is not there yet.
        lsn = volume.resizes[volume.resize_count - 1].lsn
    command.waiter.wake = on_resized
    command.waiter.arg = lsn
    waiter_add(&volume.commit_waiters, &command.waiter)


cdef void on_resized(Waiter *waiter, int rc) noexcept nogil:
    command_done(<Command *>waiter.owner, rc, waiter.arg, 0, 0, NULL, 0)


# ---------------------------------------------------------------- superblock fields

cdef void save(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    if command == NULL:
        return
    command.waiter.wake = on_saved
    super_write(volume, &command.waiter)


cdef void on_saved(Waiter *waiter, int rc) noexcept nogil:
    command_done(<Command *>waiter.owner, rc, 0, 0, 0, NULL, 0)


# ---------------------------------------------------------------- peers

cdef int set_membership(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    """Payload: slots, u32 each; the first `a` are needed, of the others one is. b writable, flags 1: answer when durable
    here."""
    cdef uint64_t count = mail.length // sizeof(uint32_t)
    cdef int rc = -EINVAL
    if mail.length == count * sizeof(uint32_t):
        rc = peers_name(volume, <const uint32_t *>mail.data, count, mail.a)
    if rc < 0:
        return rc
    if volume.writable and mail.b == 0:
        volume.blocked_ns = now_boot(core.reactor)
    volume.writable = mail.b != 0
    volume.any_of = count > mail.a
    volume.ack_local = (mail.flags & 1) != 0
    gate_update(volume)
    grants_hurry(core)
    task_queue(volume.reactor, &volume.commit_task)
    task_queue(volume.reactor, &volume.resume_task)
    return 0


cdef void ship(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    """a slot, b node key, c descriptor, d joined LSN; payload, if any: the plan of a rebuild."""
    cdef const BasePlan *plan = <const BasePlan *>mail.data if mail.length == sizeof(BasePlan) else NULL
    cdef int rc = -ESTALE
    if mail.length != 0 and plan == NULL:
        rc = -EINVAL
    elif volume.primary and not volume.condemned and mail.d <= volume.log.head_lsn:
        rc = ship_start(volume, mail.a, <uint32_t>mail.b, <int>mail.c, mail.d, plan)
    if rc < 0:
        core.reactor.io.close(&core.reactor.io, <int>mail.c)
    else:
        # It may be on another node than before, and has granted nothing there.
        gate_update(volume)
        grants_hurry(core)
    reply(core, mail, rc, 0, 0, 0)


cdef void follow(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    """a descriptor, b epoch, c start: only the term promised may feed this replica, and only when it has joined that
    term's primary, or was made ready for its copy, in this process.

    That has both superblock copies written, so what it acknowledges from then on is bound by what either of them says
    (wal/joint.pyx), and it is suspect no more. And the primary goes on behind the LSN that it was told.
    """
    cdef int rc = -ESTALE
    if volume.condemned or volume.frozen:
        rc = -EIO
    elif (
        not volume.primary
        and mail.b == volume.super.now.promised_epoch
        and mail.c == volume.super.now.promised_start
        and volume.promise_durable
    ):
        rc = follow_start(volume, <int>mail.a, mail.b, mail.c) if volume.joined else -EAGAIN
    if rc < 0:
        core.reactor.io.close(&core.reactor.io, <int>mail.a)
    reply(core, mail, rc, volume.super.now.promised_epoch, 0, 0)


cdef void peer_acked(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    cdef Command *command
    cdef Peer *peer = peer_at(volume, mail.a)
    if peer == NULL or (peer.ship == NULL and peer.acked_lsn < mail.b):
        reply(core, mail, -EPIPE, 0, 0, 0)
        return
    if peer.acked_lsn >= mail.b:
        reply(core, mail, 0, peer.acked_lsn, 0, 0)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    command.waiter.wake = on_saved
    command.waiter.arg = mail.b
    waiter_add(&peer.waiters, &command.waiter)


# ---------------------------------------------------------------- sessions

cdef void adopt(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    """Payload: SessionConfig, then the bytes read beyond the login."""
    cdef SessionConfig *config = <SessionConfig *>mail.data
    cdef Session *session
    if mail.length < sizeof(SessionConfig):
        core.reactor.io.close(&core.reactor.io, <int>mail.a)
        reply(core, mail, -EINVAL, 0, 0, 0)
        return
    config.fd = <int>mail.a
    session = session_adopt(
        core.reactor, volume, config, mail.data + sizeof(SessionConfig),
        <uint32_t>(mail.length - sizeof(SessionConfig)), <ClientHooks *>core.hooks,
    )
    reply(core, mail, 0 if session != NULL else -ENOMEM, 0, 0, 0)


cdef void adopt_queue(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    """Payload: QueueConfig, then the bytes read beyond the Connect."""
    cdef QueueConfig *config = <QueueConfig *>mail.data
    if mail.length < sizeof(QueueConfig):
        core.reactor.io.close(&core.reactor.io, <int>mail.a)
        reply(core, mail, -EINVAL, 0, 0, 0)
        return
    config.fd = <int>mail.a
    if queue_adopt(
        core.reactor, volume, config, mail.data + sizeof(QueueConfig), <uint32_t>(mail.length - sizeof(QueueConfig)),
        <ClientHooks *>core.hooks,
    ) == NULL:
        reply(core, mail, -ENOMEM, 0, 0, 0)
    else:
        reply(core, mail, 0, 0, 0, 0)


cdef void adopt_nbd(Core *core, Volume *volume, Mail *mail) noexcept nogil:
    """Payload: NbdConfig, then the bytes read beyond the negotiation."""
    cdef NbdConfig *config = <NbdConfig *>mail.data
    cdef Link *link
    if mail.length < sizeof(NbdConfig):
        core.reactor.io.close(&core.reactor.io, <int>mail.a)
        reply(core, mail, -EINVAL, 0, 0, 0)
        return
    config.fd = <int>mail.a
    link = nbd_adopt(
        core.reactor, volume, config, mail.data + sizeof(NbdConfig), <uint32_t>(mail.length - sizeof(NbdConfig)),
        <ClientHooks *>core.hooks,
    )
    reply(core, mail, 0 if link != NULL else -ENOMEM, 0, 0, 0)


cdef void abort_command(Core *core, Mail *mail) noexcept nogil:
    """a key of a queue, b identifier of a command on it. Answer: a 1 when it was taken back."""
    cdef Queue *queue = queue_find(<ClientHooks *>core.hooks, mail.a)
    reply(core, mail, 0, 1 if queue != NULL and queue_abort(queue, <uint16_t>mail.b) else 0, 0, 0)


cdef void preempted(Core *core, Mail *mail) noexcept nogil:
    """a key of a session or queue, all of whose commands are taken back."""
    cdef Client *client = client_find(<ClientHooks *>core.hooks, mail.a)
    if client != NULL and client.kind.preempted != NULL:
        client.kind.preempted(client)
    reply(core, mail, 0, 0, 0, 0)


cdef void to_session(Core *core, Mail *mail) noexcept nogil:
    """a key, b tag. ANSWER: c status, d bytes of sense at the front of the payload. RAW: 48 bytes of header in front.
    END_SESSION: b milliseconds to leave by itself, 0 for at once. ATTENTION: b unit attentions to raise. ANSWER for an
    NVMe queue: c its status, the payload its data."""
    cdef Client *client = client_find(<ClientHooks *>core.hooks, mail.a)
    cdef Session *session = session_find(<ClientHooks *>core.hooks, mail.a)
    if client != NULL and mail.kind == COMMAND_END_SESSION:
        if mail.b != 0 and client.kind.leave != NULL:
            client.kind.leave(client, mail.b * 1000000)
        else:
            client_fail(client, ENDED_COMMAND)
    elif client != NULL and client.kind.protocol == CLIENT_NVME and mail.kind == COMMAND_ANSWER:
        queue_answer(<Queue *>client, <uint32_t>mail.b, <uint32_t>mail.c, mail.data, <uint32_t>mail.length)
    elif session != NULL:
        if mail.kind == COMMAND_ATTENTION:
            session.attention |= <uint32_t>mail.b & ATTENTION_TOLD
        elif mail.kind == COMMAND_ANSWER and mail.d <= mail.length:
            session_answer(
                session, <uint32_t>mail.b, <uint8_t>mail.c, mail.data, <uint32_t>mail.d, mail.data + mail.d,
                <uint32_t>(mail.length - mail.d),
            )
        elif mail.kind == COMMAND_ANSWER_RAW and mail.length >= 48:
            session_answer_raw(
                session, <uint32_t>mail.b, mail.data, mail.data + 48, <uint32_t>(mail.length - 48)
            )
    reply(core, mail, 0, 0, 0, 0)
