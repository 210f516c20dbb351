"""The control side's commands on the table of reservations: the newest committed one, the next one, a damaged slot.

Safety argument. A change is made from a table that was read, so it is logged only while that table is the newest logged
one; two changes made from the same table cannot both be. It is answered when it has committed: then every replica that
may take over has it, and every write with a lower LSN has committed too (reservations.pyx).

What is read out is committed, so nobody is told of a registration or a reservation that a failover takes back, and it
is read out only while the gate is open: a former primary tells of no table that was replaced elsewhere.

What cannot be done now, for want of a grant, a replica or room, is held like a write, up to `fence_hold`; a change that
is held is in no log, and is refused as stale when another one was logged meanwhile.

A change that is logged and does not commit is answered like such a write (block.pyx): when the gate has been closed, or
the volume not writable, for `fence_hold`. It stays in the log, and commits when it can, so the answer says that nobody
knows. Later changes are made from committed tables, so they are refused as not possible now, and nothing is made from a
table that may still be cut. While the replicas that are needed are merely slow it is waited for, as writes are.

Whose command it is. The control side needs turns of its own to decide, and meanwhile the command may be taken back or
its session end. So the turn that logs a change looks at both first. What was taken back before is never logged; what is
logged counts in `client.changes`, so its session ends after it, and task management waits for it
(front/iscsi/manage.pyx). Either way an initiator that was told that a command is gone, or that its old session is,
meets no change of it later that it was not told of. What it was told of, by `-EBUSY`, it knows may still come.

A command of a path that does not serve is carried out by another node (node/forwarding.py), which knows no session of
ours. There it is logged in nobody's name, and by a time that its own clock says: the same turn looks at that too. Here
it is pinned before it is sent, which counts in `client.changes` like a change that is logged.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.control.command cimport Command, command_done, command_new
from sparrow._native.extent.flusher cimport flush_idle, flush_urge
from sparrow._native.front.client cimport Client, ClientHooks, client_find
from sparrow._native.gate cimport gate_is_open, gate_may_return
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_ENTRY_TABLE, SP_RESERVATION_BYTES, SP_STATE_CLEAN, SP_TABLE_PAGES
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE, page_drop, page_spare, page_take
from sparrow._native.reactor cimport Timer, now_boot, task_queue, timer_clear, timer_set
from sparrow._native.reservations cimport (
    TABLES_AHEAD, TABLES_MAX, table_at, table_lsn, table_name, table_spare_at, table_valid, tables_above,
)
from sparrow._native.sys cimport (
    EAGAIN, EBUSY, ECANCELED, EINVAL, EIO, ENOMEM, ENOSPC, ESTALE, malloc, memcpy, sp_assert,
)
from sparrow._native.volume cimport Core, Table, Volume, Waiter
from sparrow._native.waiters cimport waiter_add
from sparrow._native.wal.log cimport log_append
from sparrow._native.wal.superblock cimport super_write

cdef uint64_t RETRY_NS = 1000000


cdef int serves(const Command *command) noexcept nogil:
    """In the term in which the command came: whoever gave it has lost its connection with an older one."""
    cdef Volume *volume = command.volume
    if volume.closing or volume.condemned or not volume.primary or volume.term_start != command.at:
        return -ESTALE
    if volume.term_start_lsn == 0 or volume.commit_lsn < volume.term_start_lsn:
        return -ESTALE
    if gate_is_open(volume):
        return 0
    return -EAGAIN if gate_may_return(volume) else -ESTALE


cdef bint later(Command *command, int rc) noexcept nogil:
    """Is it tried again? What cannot be now may be in a moment; like a write it is held for a while."""
    cdef uint64_t now = now_boot(command.core.reactor)
    if rc != -EAGAIN or now >= command.end:
        return False
    timer_set(command.core.reactor, &command.timer, now + RETRY_NS)
    return True


cdef void refuse(Command *command, int rc) noexcept nogil:
    command_done(command, rc, command.volume.super.now.promised_epoch if rc < 0 else 0, 0, 0, NULL, 0)


cdef void begin(Core *core, Volume *volume, const Mail *mail, void (*fire)(Timer *timer) noexcept nogil) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    if command == NULL:
        return
    command.at = volume.term_start
    command.end = now_boot(core.reactor) + core.fence_hold_ns
    command.timer.fire = fire
    fire(&command.timer)


# ---------------------------------------------------------------- the newest

cdef void do_reservations(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    begin(core, volume, mail, try_read)


cdef void try_read(Timer *timer) noexcept nogil:
    cdef Command *command = <Command *>timer.owner
    cdef Volume *volume = command.volume
    cdef int rc = serves(command)
    if later(command, rc):
        return
    if rc < 0:
        refuse(command, rc)
        return
    command.waiter.wake = on_known
    command.waiter.arg = table_lsn(volume)
    if command.waiter.arg <= volume.commit_lsn:
        on_known(&command.waiter, 0)
    else:
        await_commit(command, command.end, on_unknown)


cdef void on_unknown(Timer *timer) noexcept nogil:
    """A change was logged and does not commit: whether it counts is not known in time."""
    cdef Command *command = <Command *>timer.owner
    forget(command)
    refuse(command, -EAGAIN)


cdef void on_known(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    cdef const Table *table = table_at(volume, volume.commit_lsn)
    cdef uint8_t *copy
    timer_clear(command.core.reactor, &command.timer)
    command.timer.fire = try_read
    if rc == 0:
        rc = serves(command)
    if later(command, rc):
        return
    if rc < 0:
        refuse(command, rc)
        return
    if table == NULL:
        command_done(command, 0, 0, 0, 0, NULL, 0)
        return
    copy = <uint8_t *>malloc(SP_RESERVATION_BYTES)
    if copy == NULL:
        command_done(command, -ENOMEM, 0, 0, 0, NULL, 0)
        return
    memcpy(copy, table.blob, SP_RESERVATION_BYTES)
    command_done(command, 0, table.lsn, 0, 0, copy, SP_RESERVATION_BYTES)


# ---------------------------------------------------------------- the next

cdef uint64_t append(Volume *volume, const uint8_t *blob) noexcept nogil:
    """Its LSN, 0 for want of room."""
    cdef uint8_t *pages[4]
    cdef uint64_t lsn
    cdef uint32_t i
    if not page_spare(&volume.reactor.pool, SP_TABLE_PAGES):
        return 0
    for i in range(SP_TABLE_PAGES):
        pages[i] = page_take(&volume.reactor.pool)
        memcpy(pages[i], blob + <uint64_t>i * PAGE, PAGE)
    lsn = log_append(volume, SP_ENTRY_TABLE, 0, SP_TABLE_PAGES, pages)
    for i in range(SP_TABLE_PAGES):
        page_drop(&volume.reactor.pool, pages[i])
    return lsn


cdef void do_log_reservations(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    begin(core, volume, mail, try_log)


cdef void try_log(Timer *timer) noexcept nogil:
    cdef Command *command = <Command *>timer.owner
    cdef Volume *volume = command.volume
    cdef const Mail *mail = &command.mail
    cdef Client *client = client_find(<ClientHooks *>command.core.hooks, mail.b) if mail.b != 0 else NULL
    cdef bint *logged = NULL
    cdef uint64_t lsn = 0
    cdef int rc = serves(command)
    if mail.b != 0:
        if client != NULL and client.volume == volume and client.kind.upcalled != NULL:
            logged = client.kind.upcalled(client, <uint32_t>mail.c)
        if logged == NULL:
            refuse(command, -ECANCELED)
            return
    if mail.d != 0 and now_boot(command.core.reactor) >= mail.d:
        refuse(command, -ECANCELED)
        return
    if rc == 0 and (mail.length != SP_RESERVATION_BYTES or not table_valid(mail.data)):
        rc = -EINVAL
    if rc == 0 and volume.frozen:
        rc = -EIO
    if rc == 0 and mail.a != table_lsn(volume):
        # Another table is the newest by now.
        refuse(command, 0)
        return
    if rc == 0:
        if volume.writable and room(volume):
            lsn = append(volume, mail.data)
        rc = 0 if lsn != 0 else -EAGAIN
        if lsn == 0 and volume.writable:
            flush_urge(volume)
    if later(command, rc):
        return
    if rc < 0:
        refuse(command, rc)
        return
    if logged != NULL:
        logged[0] = True
        command.client = client
        client.changes += 1
    command.waiter.wake = on_committed
    command.waiter.arg = lsn
    await_commit(command, now_boot(command.core.reactor) + command.core.fence_hold_ns, on_late)


cdef bint room(const Volume *volume) noexcept nogil:
    """Few are under way, and few are kept for a cut."""
    return (
        tables_above(volume, volume.commit_lsn) < TABLES_AHEAD and tables_above(volume, volume.applied_lsn) < TABLES_MAX
    )


cdef void await_commit(Command *command, uint64_t until, void (*late)(Timer *timer) noexcept nogil) noexcept nogil:
    waiter_add(&command.volume.commit_waiters, &command.waiter)
    command.timer.fire = late
    timer_set(command.core.reactor, &command.timer, until)


cdef void forget(Command *command) noexcept nogil:
    """It waits for its commit no more. Few wait at a time."""
    cdef Waiter **at = &command.volume.commit_waiters
    while at[0] != NULL and at[0] != &command.waiter:
        at = &at[0].next
    sp_assert(at[0] == &command.waiter, b"a change waits for nothing")
    at[0] = command.waiter.next


cdef void on_late(Timer *timer) noexcept nogil:
    """Looked at once per `fence_hold`, so whatever began meanwhile is answered when it has lasted that long."""
    cdef Command *command = <Command *>timer.owner
    cdef Volume *volume = command.volume
    cdef uint64_t now = now_boot(command.core.reactor)
    cdef uint64_t due = now + command.core.fence_hold_ns
    if not volume.gate.open:
        due = min(due, volume.gate.closed_ns + command.core.fence_hold_ns) if gate_may_return(volume) else now
    if not volume.writable:
        due = min(due, volume.blocked_ns + command.core.fence_hold_ns)
    if due > now:
        timer_set(command.core.reactor, timer, due)
        return
    forget(command)
    on_committed(&command.waiter, -EBUSY)


cdef void on_committed(Waiter *waiter, int rc) noexcept nogil:
    """Its end, one way or the other: whatever kept it from its commit, it may be in the log of a successor."""
    cdef Command *command = <Command *>waiter.owner
    timer_clear(command.core.reactor, &command.timer)
    if command.client != NULL:
        command.client.changes -= 1
        task_queue(command.core.reactor, &command.client.task)
    command_done(command, -EBUSY if rc < 0 else 0, waiter.arg, 0, 0, NULL, 0)


# ---------------------------------------------------------------- carried out elsewhere

cdef int pin_command(Core *core, uint64_t key, uint32_t tag) noexcept nogil:
    cdef Client *client = client_find(<ClientHooks *>core.hooks, key)
    cdef bint *logged = NULL
    if client != NULL and client.kind.upcalled != NULL:
        logged = client.kind.upcalled(client, tag)
    if logged == NULL:
        return -ECANCELED
    if logged[0]:
        return -EBUSY
    logged[0] = True
    client.changes += 1
    return 0


cdef void unpin_command(Core *core, uint64_t key) noexcept nogil:
    """The session may be ending: it waits for this."""
    cdef Client *client = (<ClientHooks *>core.hooks).first
    while client != NULL and client.key != key:
        client = client.next
    sp_assert(client != NULL and client.changes > 0, b"a session ended before a command of it that was pinned")
    client.changes -= 1
    task_queue(core.reactor, &client.task)


# ---------------------------------------------------------------- a damaged slot

cdef void do_mend_table(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    begin(core, volume, mail, try_mend)


cdef void try_mend(Timer *timer) noexcept nogil:
    """As a checkpoint does it, and in turns with the flusher, which writes the same slot."""
    cdef Command *command = <Command *>timer.owner
    cdef Volume *volume = command.volume
    cdef Table *table = table_at(volume, volume.super.now.table_lsn)
    if volume.closing or volume.condemned or volume.suspect or volume.super.now.state != SP_STATE_CLEAN:
        # What is rebuilt gets its table with the base; who has to rejoin says nothing of itself before.
        refuse(command, -EAGAIN)
        return
    if table == NULL or table.lsn != volume.super.now.table_lsn:
        refuse(command, 0)
        return
    if not flush_idle(volume) or volume.views > 0:
        if not later(command, -EAGAIN):
            refuse(command, -EAGAIN)
        return
    volume.views += 1
    command.buffer = <uint8_t *>table
    command.iov.iov_base = table.blob
    command.iov.iov_len = SP_RESERVATION_BYTES
    command.op.done = on_slot_written
    volume.reactor.io.write(
        &volume.reactor.io, &command.op, volume.super.fd, &command.iov, 1, table_spare_at(volume), True
    )


cdef void on_slot_written(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    if res != <int32_t>SP_RESERVATION_BYTES:
        on_mended(&command.waiter, res if res < 0 else -ENOSPC)
        return
    # While `views` stands no round is made, so the table is still the one that is named.
    table_name(command.volume, <Table *>command.buffer)
    command.waiter.wake = on_mended
    super_write(command.volume, &command.waiter)


cdef void on_mended(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    command.buffer = NULL
    command.volume.views -= 1
    task_queue(command.core.reactor, &command.volume.flush.task)
    refuse(command, rc)
