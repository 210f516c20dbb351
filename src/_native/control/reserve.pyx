"""The control side's two commands on the table of reservations: the newest committed one, and the next one.

Safety argument. A change is made from a table that was read, so it is logged only while that table is the newest logged
one; two changes made from the same table cannot both be. It is answered when it has committed: then every replica that
may take over has it, and every write with a lower LSN has committed too (reservations.pyx).

What is read out is committed, so nobody is told of a registration or a reservation that a failover takes back, and it is
read out only while the gate is open: a former primary tells of no table that was replaced elsewhere.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.control.command cimport Command, command_done, command_new
from sparrow._native.events cimport done_up
from sparrow._native.extent.flusher cimport flush_urge
from sparrow._native.gate cimport gate_is_open, gate_may_return
from sparrow._native.layout cimport SP_ENTRY_TABLE, SP_RESERVATION_BYTES, SP_TABLE_PAGES
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE, page_drop, page_spare, page_take
from sparrow._native.reservations cimport (
    TABLES_AHEAD, TABLES_MAX, table_at, table_lsn, table_valid, tables_above,
)
from sparrow._native.sys cimport EAGAIN, EINVAL, EIO, ENOMEM, ESTALE, free, malloc, memcpy
from sparrow._native.volume cimport Core, Table, Volume, Waiter
from sparrow._native.waiters cimport waiter_add
from sparrow._native.wal.log cimport log_append


cdef int serves(Volume *volume) noexcept nogil:
    if volume.condemned or not volume.primary or volume.term_start_lsn == 0 or volume.commit_lsn < volume.term_start_lsn:
        return -ESTALE
    if gate_is_open(volume):
        return 0
    return -EAGAIN if gate_may_return(volume) else -ESTALE


cdef void refuse(Core *core, const Volume *volume, const Mail *mail, int rc) noexcept nogil:
    done_up(core.reactor, mail.token, rc, volume.super.now.promised_epoch if rc < 0 else 0, 0, 0, NULL, 0)
    free(mail.data)


# ---------------------------------------------------------------- the newest

cdef void do_reservations(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command
    cdef int rc = serves(volume)
    if rc < 0:
        refuse(core, volume, mail, rc)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    command.waiter.wake = on_known
    command.waiter.arg = table_lsn(volume)
    if command.waiter.arg <= volume.commit_lsn:
        on_known(&command.waiter, 0)
    else:
        waiter_add(&volume.commit_waiters, &command.waiter)


cdef void on_known(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    cdef const Table *table = table_at(volume, volume.commit_lsn)
    cdef uint8_t *copy
    if rc == 0:
        rc = serves(volume)
    if rc < 0:
        command_done(command, rc, volume.super.now.promised_epoch, 0, 0, NULL, 0)
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
    cdef Command *command
    cdef uint64_t lsn
    cdef int rc = serves(volume)
    if rc == 0 and (mail.length != SP_RESERVATION_BYTES or not table_valid(mail.data)):
        rc = -EINVAL
    if rc == 0 and volume.frozen:
        rc = -EIO
    if rc == 0 and not volume.writable:
        rc = -EAGAIN
    if rc < 0 or mail.a != table_lsn(volume):
        refuse(core, volume, mail, rc)
        return
    if tables_above(volume, volume.commit_lsn) >= TABLES_AHEAD or tables_above(volume, volume.applied_lsn) >= TABLES_MAX:
        flush_urge(volume)
        refuse(core, volume, mail, -EAGAIN)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    lsn = append(volume, mail.data)
    if lsn == 0:
        flush_urge(volume)
        command_done(command, -EAGAIN, 0, 0, 0, NULL, 0)
        return
    command.waiter.wake = on_committed
    command.waiter.arg = lsn
    await_commit(volume, &command.waiter)


cdef void await_commit(Volume *volume, Waiter *waiter) noexcept nogil:
    waiter_add(&volume.commit_waiters, waiter)


cdef void on_committed(Waiter *waiter, int rc) noexcept nogil:
    command_done(<Command *>waiter.owner, rc, waiter.arg, 0, 0, NULL, 0)
