"""A volume comes into the core, and leaves it with everything committed applied."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.block cimport block_fail_all, block_init
from sparrow._native.commit cimport commit_init
from sparrow._native.control.command cimport Command, command_done, command_new, command_when_quiet, quiet_init
from sparrow._native.control.report cimport report_summary
from sparrow._native.events cimport done_up
from sparrow._native.extent.absence cimport absence_free, absence_init
from sparrow._native.extent.dirty cimport dirty_cut_above
from sparrow._native.extent.flusher cimport flush_end, flush_init, flush_target, flush_to
from sparrow._native.extent.cache cimport cache_forget
from sparrow._native.extent.seals cimport seals_found
from sparrow._native.extent.sums cimport frames_forget
from sparrow._native.extent.sync cimport sync_init
from sparrow._native.extent.torn cimport torn_free, torn_mend
from sparrow._native.front.client cimport ClientHooks, client_end_all
from sparrow._native.gate cimport CAUSE_COMMAND, gate_close, gate_init
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_RESERVATION_BYTES, SP_STATE_REBUILDING, SP_SUPERBLOCK_SIZE, sp_superblock
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.reactor cimport Timer, now_boot, timer_clear, timer_set
from sparrow._native.replication.promises cimport grant_stop
from sparrow._native.replication.receive cimport follow_drop
from sparrow._native.replication.ship cimport peers_free, ship_drop_all
from sparrow._native.reservations cimport table_discard, table_forget, table_install, table_new, table_slot_at
from sparrow._native.resize cimport resize_init, resize_serve
from sparrow._native.sys cimport (
    EBADMSG, EINVAL, ENOMEM, calloc, free, malloc, memcpy, realloc, sp_assert, sp_crc32c,
)
from sparrow._native.volume cimport NONE, PEERS_MAX, Core, GrantLink, Table, TermStart, Volume, Waiter
from sparrow._native.waiters cimport wake_all
from sparrow._native.wal.joint cimport joint_init
from sparrow._native.wal.log cimport log_close, log_open
from sparrow._native.wal.recovery cimport recover, recover_free

cdef uint64_t NOWHERE = <uint64_t>-1
cdef uint64_t POLL_NS = 2000000


cdef void do_open(Core *core, const Mail *mail) noexcept nogil:
    cdef Command *command
    cdef Volume *volume = NULL
    cdef sp_superblock *now
    cdef uint32_t i
    if mail.volume == 0 or mail.volume >= core.volume_room or core.volumes[mail.volume] != NULL:
        done_up(core.reactor, mail.token, -EINVAL, 0, 0, 0, NULL, 0)
        free(mail.data)
        return
    volume = <Volume *>calloc(1, sizeof(Volume))
    if volume != NULL:
        volume.reactor = core.reactor
        volume.super.now = <sp_superblock *>malloc(SP_SUPERBLOCK_SIZE)
        volume.super.image = page_take(&core.reactor.pool)
    command = command_new(core, volume, mail)
    if command == NULL:
        free_volume(core, volume)
        return
    if volume == NULL or volume.super.now == NULL or volume.super.image == NULL:
        command.volume = NULL
        free_volume(core, volume)
        command_done(command, -ENOMEM, 0, 0, 0, NULL, 0)
        return
    memcpy(volume.super.now, mail.data, SP_SUPERBLOCK_SIZE)
    now = volume.super.now
    volume.index = mail.volume
    volume.key = now.volume_key
    # The superblock is followed by what the files can hold.
    resize_init(volume, now.size_bytes // PAGE, (<uint64_t *>(mail.data + SP_SUPERBLOCK_SIZE))[0] // PAGE)
    volume.block_size = now.block_size
    # Flags: 1 when a copy of the superblock is lost, 2 when no other replica lacks anything of what is applied here.
    volume.suspect = (mail.flags & 1) != 0
    volume.walk.unwanted = (mail.flags & 2) != 0
    volume.promise_durable = True
    volume.reach_durable = now.reach_lsn
    joint_init(volume)
    # It may have been closed in this process a moment ago, with a promise that still runs.
    volume.other_boot = core.closed_boot
    volume.other_raw = core.closed_raw
    volume.headroom = NOWHERE
    volume.super.fd = <int>mail.a
    volume.ext_fd = <int>mail.c
    volume.ext_direct_fd = volume.ext_fd
    if mail.length >= SP_SUPERBLOCK_SIZE + 24:
        volume.ext_direct_fd = <int>(<const uint64_t *>(mail.data + SP_SUPERBLOCK_SIZE))[2]
    volume.sums_fd = <int>mail.d
    sync_init(&volume.ext_sync, volume, volume.ext_fd)
    sync_init(&volume.sums_sync, volume, volume.sums_fd)
    volume.fifo_head = NONE
    volume.fifo_tail = NONE
    volume.applied_lsn = now.applied_lsn
    volume.extents_lsn = now.applied_lsn
    # Behind that: the extents past the page cache, the descriptor of the absence maps, and the bits of those in use.
    if (
        mail.length < SP_SUPERBLOCK_SIZE + 24
        or log_open(volume, <int>mail.b, now.wal_offset, now.wal_bytes, core.writes_max) < 0
        or flush_init(volume) < 0
        or absence_init(
            volume, <int>(<const uint64_t *>(mail.data + SP_SUPERBLOCK_SIZE))[1], mail.data + SP_SUPERBLOCK_SIZE + 24,
            mail.length - SP_SUPERBLOCK_SIZE - 24,
        ) < 0
    ):
        command.volume = NULL
        free_volume(core, volume)
        command_done(command, -ENOMEM, 0, 0, 0, NULL, 0)
        return
    gate_init(volume)
    commit_init(volume)
    block_init(volume)
    quiet_init(volume)
    volume.log.apart = (mail.flags & 4) != 0
    volume.log.head_lsn = now.tail_lsn
    volume.log.durable_lsn = now.tail_lsn
    volume.log.tail_lsn = now.tail_lsn
    volume.log.free_lsn = now.tail_lsn
    volume.log.head_check = now.tail_check
    volume.log.tail_check = now.tail_check
    volume.log.head_offset = now.tail_offset
    volume.log.tail_offset = now.tail_offset
    volume.log.free_floor = now.tail_offset
    # Rows behind the tail are only here; later ones are derived from the log, so that a cut takes them along.
    for i in range(now.term_rows):
        if (<TermStart *>&now.terms[0])[i].first_lsn <= now.tail_lsn:
            volume.log.terms[i] = (<TermStart *>&now.terms[0])[i]
            volume.log.term_count = i + 1
    core.volumes[volume.index] = volume
    core.volume_end = max(core.volume_end, <uint32_t>volume.index + 1)
    command.waiter.wake = on_recovered
    if now.table_lsn != 0:
        read_table(command)
    else:
        recover(volume, &command.waiter)


cdef void read_table(Command *command) noexcept nogil:
    """The table of reservations of the checkpoint, before the log is walked."""
    cdef Volume *volume = command.volume
    cdef Table *table = table_new(volume.super.now.table_lsn)
    if table == NULL:
        on_recovered(&command.waiter, -ENOMEM)
        return
    command.buffer = <uint8_t *>table
    volume.table_iov.iov_base = table.blob
    volume.table_iov.iov_len = SP_RESERVATION_BYTES
    volume.table_op.owner = command
    volume.table_op.done = on_table_read
    volume.reactor.io.read(
        &volume.reactor.io, &volume.table_op, volume.super.fd, &volume.table_iov, 1, table_slot_at(volume)
    )


cdef void on_table_read(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    cdef Volume *volume = command.volume
    cdef sp_superblock *now = volume.super.now
    cdef Table *table = <Table *>command.buffer
    cdef bint whole = (
        res == <int32_t>SP_RESERVATION_BYTES and sp_crc32c(0, table.blob, SP_RESERVATION_BYTES) == now.table_check
    )
    command.buffer = NULL
    if whole:
        table.check = now.table_check
        table_install(volume, table)
        recover(volume, &command.waiter)
        return
    table_discard(table)
    if now.state == SP_STATE_REBUILDING:
        # Nothing of it counts before it is rebuilt: that begins from nothing, and brings the table.
        table_forget(volume)
        now.base_lsn = 0
        now.base_cursor = 0
        now.base_from = 0
        now.base_patched = 0
        recover(volume, &command.waiter)
    else:
        # What the reservations were nobody here knows any more (reservations.pyx).
        on_recovered(&command.waiter, -EBADMSG)


cdef void on_recovered(Waiter *waiter, int rc) noexcept nogil:
    """The log was walked, or could not be."""
    if rc < 0:
        on_whole(waiter, rc)
        return
    seals_found((<Command *>waiter.owner).volume)
    waiter.wake = on_whole
    torn_mend((<Command *>waiter.owner).volume, waiter)


cdef void on_whole(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    cdef uint64_t length = 0
    cdef uint8_t *summary
    if rc < 0:
        command.core.volumes[volume.index] = NULL
        command.volume = NULL
        free_volume(command.core, volume)
        command_done(command, rc, 0, 0, 0, NULL, 0)
        return
    resize_serve(volume)
    # The control side knows what a change changes: the table that was there is told with the first commit.
    volume.table_told = 0
    volume.opened = True
    summary = report_summary(volume, &length)
    if summary != NULL:
        # Two words more: torn blocks of checksums that are whole again, and the size.
        summary = <uint8_t *>realloc(summary, length + 16)
        sp_assert(summary != NULL, b"no memory for an answer")
        (<uint64_t *>(summary + length))[0] = volume.completed
        (<uint64_t *>(summary + length))[1] = volume.served * PAGE
        length += 16
    command_done(command, 0, volume.torn_after, volume.damaged_after, volume.let_go_to, summary, length)


cdef void free_volume(Core *core, Volume *volume) noexcept nogil:
    if volume == NULL:
        return
    if volume.flush.list != NULL:
        flush_end(volume)
    if volume.log.recs != NULL:
        dirty_cut_above(core, volume, 0)
        log_close(volume)
        frames_forget(core, volume)
        cache_forget(core, volume)
    absence_free(volume)
    if volume.super.now != NULL:
        table_forget(volume)
    if volume.super.image != NULL:
        page_drop(&core.reactor.pool, volume.super.image)
    free(volume.super.now)
    free(volume.told)
    peers_free(volume)
    free(volume)


cdef void do_close(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    """Stop serving, let what is committed be applied and the checkpoint written, then let go."""
    cdef Command *command = command_new(core, volume, mail)
    if command == NULL:
        return
    # From here on commands find no volume, and sessions and requests are refused: nothing comes that was not ended here.
    volume.closing = True
    gate_close(volume, CAUSE_COMMAND)
    client_end_all(<ClientHooks *>core.hooks, volume)
    ship_drop_all(volume)
    follow_drop(volume, 0)
    wake_all(&volume.commit_waiters, -EINVAL)
    command.waiter.wake = on_applied
    command.waiter.arg = flush_target(volume)
    if volume.condemned or volume.frozen or volume.pool_full or volume.applied_lsn >= command.waiter.arg or volume.suspect:
        command_when_quiet(command, on_quiet)
        return
    flush_to(volume, &command.waiter)


cdef void on_applied(Waiter *waiter, int rc) noexcept nogil:
    command_when_quiet(<Command *>waiter.owner, on_quiet)


cdef void on_quiet(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    volume.opened = False
    block_fail_all(volume, -EINVAL)
    wake_all(&volume.commit_waiters, -EINVAL)
    wake_all(&volume.flush.waiters, -EINVAL)
    command.timer.fire = on_poll
    on_poll(&command.timer)


cdef void on_poll(Timer *timer) noexcept nogil:
    """Links, sessions, reads and commands end in their own turns; the volume goes when the last has."""
    cdef Command *command = <Command *>timer.owner
    cdef Volume *volume = command.volume
    cdef Core *core = command.core
    if (
        volume.commands > 1 or volume.links > 0 or volume.sessions > 0 or volume.super.stage != 0 or volume.views > 0
        or volume.log.writes > 0 or volume.reading > 0 or volume.log_task.queued or volume.commit_task.queued
        or volume.resume_task.queued or volume.quiet_task.queued or volume.flush.task.queued
    ):
        timer_set(core.reactor, timer, now_boot(core.reactor) + POLL_NS)
        return
    grant_stop(volume)
    core.closed_boot = max(core.closed_boot, volume.other_boot, volume.prior_boot)
    core.closed_raw = max(core.closed_raw, volume.other_raw, volume.prior_raw)
    timer_clear(core.reactor, &volume.gate.timer)
    timer_clear(core.reactor, &volume.commit_timer)
    timer_clear(core.reactor, &volume.held_timer)
    timer_clear(core.reactor, &volume.damaged_timer)
    core.volumes[volume.index] = NULL
    command.volume = NULL
    free_volume(core, volume)
    command_done(command, 0, 0, 0, 0, NULL, 0)


cdef void abandon(Core *core) noexcept nogil:
    cdef Volume *volume
    cdef GrantLink *link
    cdef uint32_t i, slot
    for i in range(core.volume_end):
        volume = core.volumes[i]
        if volume == NULL:
            continue
        core.volumes[i] = NULL
        recover_free(volume)
        torn_free(volume)
        for slot in range(PEERS_MAX):
            if volume.peers[slot] != NULL:
                free(volume.peers[slot].ship)
        if volume.follow != NULL:
            free(volume.follow.buffer)
            table_discard(volume.follow.base_table)
            free(volume.follow)
        peers_free(volume)
        table_forget(volume)
        free(volume.flush.list)
        free(volume.log.recs)
        free(volume.super.now)
        free(volume.told)
        free(volume)
    while core.grants != NULL:
        link = core.grants
        core.grants = link.next
        free(link)
