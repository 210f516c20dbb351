"""Fence, term, join, adoption: what an opening asks of one replica.

Safety argument. A promise is in memory before anything else happens, so nothing of an older term is taken or granted
from that moment; it is on both superblock copies before it is answered, so no crash forgets it. The own gate is closed
before the answer. A new term waits until everything of the old one has left the log's hands, so no batch carries a term
it was not collected under. A cut below what is applied or committed here, or what a page may hold (wal/reach.pyx),
would deny a promise already kept: it is never made, the replica is quarantined instead. Nor is one of entries of the
joined term itself (`shown_before`, control/cut.pyx).
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.control.command cimport Command, command_done, command_new, command_of_term, command_when_quiet
from sparrow._native.control.cut cimport Row, common_point, cut_log, reach_denied, shown_before
from sparrow._native.control.report cimport report_fence
from sparrow._native.events cimport done_up
from sparrow._native.front.client cimport ClientHooks, client_end_older
from sparrow._native.gate cimport CAUSE_FENCED, gate_begin, gate_close
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_ENTRY_TERM_START, SP_STATE_CLEAN, sp_wal_batch
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.reactor cimport Timer, now_boot, timer_set
from sparrow._native.replication.promises cimport grant_stop, older_left, promise_left
from sparrow._native.replication.receive cimport batch_receive, follow_drop
from sparrow._native.replication.ship cimport ship_drop_all
from sparrow._native.sys cimport (
    EAGAIN, EBADMSG, EIO, ENOENT, ENOMEM, ENOSPC, EPROTO, ESTALE, free, malloc, memcmp, memcpy,
)
from sparrow._native.volume cimport Core, Rec, Volume, Waiter
from sparrow._native.waiters cimport waiter_add, wake_all
from sparrow._native.wal.damage cimport batch_damaged, bytes_whole
from sparrow._native.wal.joint cimport joint_owed, joint_settle
from sparrow._native.wal.log cimport BLOCK, head_valid, log_append, log_at, log_check_at, log_find, log_rec
from sparrow._native.wal.superblock cimport super_write

cdef uint64_t NOWHERE = <uint64_t>-1
cdef uint64_t RETRY_NS = 1000000


cdef int promise(Volume *volume, uint64_t epoch, uint64_t start, const uint8_t *primary) noexcept nogil:
    """Take the promise into memory. -ESTALE: a newer one stands; -EPROTO: this epoch is somebody else's."""
    if epoch < volume.super.now.promised_epoch:
        return -ESTALE
    if epoch == volume.super.now.promised_epoch and volume.super.now.promised_primary[0] != 0:
        if memcmp(volume.super.now.promised_primary, primary, 16) != 0:
            return -EPROTO
        if start < volume.super.now.promised_start:
            return -ESTALE
    volume.promise_durable = False
    if epoch > volume.super.now.promised_epoch:
        # The old primary's grants end by themselves or are given back; the new one is told how long that may take.
        grant_stop(volume)
    if epoch != volume.super.now.promised_epoch or start != volume.super.now.promised_start:
        volume.grant_stamp = 0
        volume.release_stamp = 0
        volume.joined = False
    volume.super.now.promised_epoch = epoch
    volume.super.now.promised_start = start
    memcpy(volume.super.now.promised_primary, primary, 16)
    return 0


cdef void step_down(Volume *volume) noexcept nogil:
    gate_close(volume, CAUSE_FENCED)
    ship_drop_all(volume)
    if volume.primary:
        volume.terms_ended += 1
    volume.primary = False
    volume.writable = False
    volume.term_start_lsn = 0
    volume.ack_local = False
    volume.ack_lsn = 0
    wake_all(&volume.commit_waiters, -ESTALE)


# ---------------------------------------------------------------- fence

cdef void do_fence(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command
    cdef bint same = (
        volume.super.now.promised_epoch == mail.a and volume.super.now.promised_start == mail.b
    )
    cdef bint durable = volume.promise_durable
    cdef int rc
    if volume.frozen and mail.a > volume.super.now.promised_epoch:
        # Another copy takes over: this one is an ordinary failed replica from now on.
        volume.condemned = True
        gate_close(volume, CAUSE_FENCED)
    rc = -EIO if volume.condemned else promise(volume, mail.a, mail.b, mail.data)
    if rc < 0:
        done_up(core.reactor, mail.token, rc, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        free(mail.data)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    if same and durable:
        # Asked again: the promise stands, and the link of this very term may be busy.
        volume.promise_durable = True
        on_fence_durable(&command.waiter, 0)
        return
    step_down(volume)
    follow_drop(volume, 0)
    command_when_quiet(command, on_fence_quiet)


cdef void on_fence_quiet(Waiter *waiter, int rc) noexcept nogil:
    waiter.wake = on_fence_durable
    super_write((<Command *>waiter.owner).volume, waiter)


cdef void on_fence_durable(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    cdef uint64_t length = 0
    cdef uint8_t *summary
    if rc < 0:
        command_done(command, rc, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        return
    if not command_of_term(command):
        command_done(command, -ESTALE, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        return
    volume.promise_durable = True
    summary = report_fence(volume, &length)
    command_done(command, 0, promise_left(volume), older_left(volume), 0, summary, length)


# ---------------------------------------------------------------- begin term

cdef void do_begin_term(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command
    cdef int rc = -EIO
    if not volume.condemned and not volume.frozen and volume.super.now.state == SP_STATE_CLEAN:
        rc = promise(volume, mail.a, volume.super.now.start + 1, mail.data)
    if rc < 0:
        done_up(core.reactor, mail.token, rc, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        free(mail.data)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    volume.super.now.start += 1
    command.at = volume.super.now.start
    step_down(volume)
    client_end_older(<ClientHooks *>core.hooks, volume)
    follow_drop(volume, 0)
    # Promises given to an older primary bind the new one too, here as anywhere else.
    grant_stop(volume)
    command_when_quiet(command, on_term_quiet)


cdef void on_term_quiet(Waiter *waiter, int rc) noexcept nogil:
    waiter.wake = on_term_durable
    joint_settle((<Command *>waiter.owner).volume)
    super_write((<Command *>waiter.owner).volume, waiter)


cdef void on_term_durable(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    if rc == 0 and (
        volume.super.now.promised_epoch != command.mail.a or volume.super.now.promised_start != command.at
    ):
        rc = -ESTALE
    if rc < 0:
        command_done(command, rc, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        return
    volume.promise_durable = True
    volume.primary = True
    volume.term_epoch = command.mail.a
    volume.term_start = command.at
    volume.term_start_lsn = 0
    gate_begin(volume)
    command_done(command, 0, volume.term_start, 0, 0, NULL, 0)


# ---------------------------------------------------------------- join

cdef void do_join(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command
    if volume.condemned or volume.frozen or volume.super.now.state != SP_STATE_CLEAN:
        done_up(core.reactor, mail.token, -EIO, 0, 0, 0, NULL, 0)
        free(mail.data)
        return
    if mail.a != volume.super.now.promised_epoch or mail.b != volume.super.now.promised_start:
        done_up(core.reactor, mail.token, -ESTALE, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        free(mail.data)
        return
    if shown_before(volume, mail):
        done_up(core.reactor, mail.token, -EAGAIN, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        free(mail.data)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    volume.joined = False
    volume.readied += 1
    command.number = volume.readied
    follow_drop(volume, 0)
    command_when_quiet(command, on_join_quiet)


cdef void on_join_quiet(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    cdef const Row *rows = <const Row *>command.mail.data
    cdef uint64_t count = command.mail.length // sizeof(Row)
    cdef uint64_t lsn
    cdef uint32_t check = 0
    if volume.cutting:
        # Another join was quiet in the same turn.
        command_when_quiet(command, on_join_quiet)
        return
    if volume.condemned:
        # Since it was asked: batches that were not written are still in its log, and stay.
        command_done(command, -EIO, 0, 0, 0, NULL, 0)
        return
    if not command_of_term(command):
        command_done(command, -ESTALE, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        return
    if command.number != volume.readied:
        # What was asked for later counts, and may be answered: entries above what this one shows may be here.
        command_done(command, -EAGAIN, volume.super.now.promised_epoch, 0, 0, NULL, 0)
        return
    lsn = common_point(volume, rows, count)
    if lsn != NOWHERE and (
        lsn < volume.applied_lsn or lsn < volume.commit_lsn or reach_denied(volume, lsn, rows, count)
    ):
        command_done(command, 0, 3, lsn, 0, NULL, 0)
        return
    if lsn == NOWHERE or lsn < volume.log.tail_lsn or not log_check_at(volume, lsn, &check):
        command_done(command, 0, 2, 0, 0, NULL, 0)
        return
    cut_log(command, lsn, on_joined)


cdef void on_joined(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    if rc < 0:
        command_done(command, rc, 0, 0, 0, NULL, 0)
        return
    volume.joined = command_of_term(command) and command.number == volume.readied
    command_done(command, 0, 1, volume.log.head_lsn, volume.log.head_check, NULL, 0)


# ---------------------------------------------------------------- reading and adopting a log

cdef void do_read_log(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command
    cdef uint64_t size = 0
    if mail.a > volume.log.head_lsn:
        done_up(core.reactor, mail.token, 0, 0, 0, 0, NULL, 0)
        free(mail.data)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    command.at = log_find(volume, mail.a)
    if command.at == NOWHERE:
        command_done(command, -ENOENT, 0, 0, 0, NULL, 0)
        return
    command.buffer = <uint8_t *>malloc(max(mail.b, <uint64_t>log_rec(volume, command.at).bytes) + BLOCK)
    if command.buffer == NULL:
        command_done(command, -ENOMEM, 0, 0, 0, NULL, 0)
        return
    command.op.done = on_log_read
    command.end = 0
    read_next(command)


cdef uint8_t *aligned(Command *command) noexcept nogil:
    return <uint8_t *>((<uint64_t>command.buffer + BLOCK - 1) & ~<uint64_t>(BLOCK - 1))


cdef void read_next(Command *command) noexcept nogil:
    cdef Volume *volume = command.volume
    cdef Rec *rec
    if command.at >= volume.log.first and command.at < volume.log.next:
        rec = log_rec(volume, command.at)
        if rec.durable and rec.mem != NULL and (command.end == 0 or command.end + rec.bytes <= command.mail.b):
            copy_batch(rec, aligned(command) + command.end)
            command.end += rec.bytes
            command.at += 1
            read_next(command)
            return
        if rec.durable and (command.end == 0 or command.end + rec.bytes <= command.mail.b):
            command.iov.iov_base = aligned(command) + command.end
            command.iov.iov_len = rec.bytes
            command.number = rec.check
            volume.reactor.io.read(
                &volume.reactor.io, &command.op, volume.log.fd, &command.iov, 1, log_at(volume, rec.offset)
            )
            return
    if aligned(command) != command.buffer:
        memcpy_down(command.buffer, aligned(command), command.end)
    command_done(command, 0, 0, 0, 0, command.buffer, command.end)


cdef extern from "<string.h>" nogil:
    void memcpy_down "memmove" (void *to, const void *what, size_t length)


cdef void copy_batch(const Rec *rec, uint8_t *to) noexcept nogil:
    cdef uint32_t i
    memcpy(to, rec.mem.header, BLOCK)
    for i in range(rec.mem.page_count):
        memcpy(to + <uint64_t>(1 + i) * BLOCK, rec.mem.pages[i], BLOCK)


cdef void on_log_read(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    cdef Volume *volume = command.volume
    # After a cut another batch may be there; it is not what was read.
    cdef bint gone = (
        command.at < volume.log.first or command.at >= volume.log.next
        or log_rec(volume, command.at).check != command.number
    )
    if gone or res != <int32_t>command.iov.iov_len or not bytes_whole(
        volume, log_rec(volume, command.at), <uint8_t *>command.iov.iov_base
    ):
        if not gone:
            batch_damaged(volume, log_rec(volume, command.at))
        if command.end > 0:
            # What lies before it is whole.
            command.at = volume.log.next
            read_next(command)
            return
        free(command.buffer)
        command_done(command, -ENOENT if gone else -EBADMSG, 0, 0, 0, NULL, 0)
        return
    command.end += <uint64_t>res
    command.at += 1
    read_next(command)


cdef void do_append_log(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    if command == NULL:
        return
    command.timer.fire = on_append_retry
    on_append_retry(&command.timer)


cdef void on_append_retry(Timer *timer) noexcept nogil:
    """Take the batches over one after the other; wait where there is no room; answer when all are durable."""
    cdef Command *command = <Command *>timer.owner
    cdef Volume *volume = command.volume
    cdef uint8_t *pages[257]
    cdef sp_wal_batch *head
    cdef uint64_t left
    cdef uint32_t count, i
    cdef int rc = 0
    while command.at < command.mail.length and not volume.condemned and not volume.closing and volume.primary:
        left = command.mail.length - command.at
        head = <sp_wal_batch *>(command.mail.data + command.at)
        if left < BLOCK or not head_valid(volume.key, command.mail.data + command.at, BLOCK):
            rc = -EBADMSG
            break
        count = 1 + head.page_count
        if left < <uint64_t>count * BLOCK:
            rc = -EBADMSG
            break
        if volume.reactor.pool.free_count < count:
            rc = -EAGAIN
            break
        for i in range(count):
            pages[i] = page_take(&volume.reactor.pool)
            memcpy(pages[i], command.mail.data + command.at + i * PAGE, PAGE)
        rc = batch_receive(volume, pages, count)
        if rc < 0:
            for i in range(count):
                page_drop(&volume.reactor.pool, pages[i])
            break
        command.at += <uint64_t>count * BLOCK
    if volume.condemned:
        rc = -EIO
    elif volume.closing or not volume.primary:
        # Adopting ends with the term it was begun for.
        rc = -ESTALE
    if rc == -EAGAIN or (rc == 0 and volume.log.durable_lsn < volume.log.head_lsn):
        timer_set(command.core.reactor, timer, now_boot(command.core.reactor) + RETRY_NS)
        return
    command_done(command, rc, volume.log.durable_lsn, 0, 0, NULL, 0)


# ---------------------------------------------------------------- term start

cdef void do_commit_inherited(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command
    if not volume.primary or volume.condemned:
        done_up(core.reactor, mail.token, -ESTALE, 0, 0, 0, NULL, 0)
        free(mail.data)
        return
    command = command_new(core, volume, mail)
    if command != NULL:
        command_when_quiet(command, on_inherit_quiet)


cdef void on_inherit_quiet(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    cdef uint64_t lsn
    if not volume.primary or volume.closing:
        command_done(command, -ESTALE, 0, 0, 0, NULL, 0)
        return
    if volume.condemned:
        # Since it was asked: nothing commits here any more, and who waits for that was told already.
        command_done(command, -EIO, 0, 0, 0, NULL, 0)
        return
    lsn = log_append(volume, SP_ENTRY_TERM_START, 0, 0, NULL)
    if lsn == 0:
        command_done(command, -ENOSPC, 0, 0, 0, NULL, 0)
        return
    volume.term_start_lsn = lsn
    waiter.wake = on_inherited
    waiter.arg = lsn
    waiter_add(&volume.commit_waiters, waiter)


cdef void on_inherited(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc == 0:
        # Under a line from the master, with the log it adopted committed on all: it is what its log says.
        command.volume.suspect = False
        if joint_owed(command.volume):
            # No client is let in before every floor of what it writes counts (wal/joint.pyx).
            waiter.wake = on_floors_count
            super_write(command.volume, waiter)
            return
    command_done(command, rc, waiter.arg, 0, 0, NULL, 0)


cdef void on_floors_count(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc == 0 and command.volume.term_start_lsn != waiter.arg:
        rc = -ESTALE
    command_done(command, rc, waiter.arg, 0, 0, NULL, 0)
