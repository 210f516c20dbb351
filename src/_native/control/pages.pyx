"""Digests of pages as of one LSN, a page for a peer, a page from a peer.

A digest is exact: while it is taken the flusher stands still, so the extents hold nothing above `extents_lsn`, and the
dirty map still has every version above the applied LSN. A repair is checked against the own sum: this replica knows
what the page must be, a peer's page that does not match is as good as none. Only for a page whose own sum is lost the
peer is believed: it answered from its committed view, as of an LSN that is committed here too and not older than what
the extents may hold, and no newer version is known here; so what it gave is what was lost.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.block cimport block_submit
from sparrow._native.control.command cimport Command, command_done, command_new
from sparrow._native.crc cimport crc_page
from sparrow._native.events cimport done_up
from sparrow._native.extent.dirty cimport dirty_find
from sparrow._native.extent.flusher cimport flush_idle
from sparrow._native.extent.read cimport read_repaired
from sparrow._native.extent.sums cimport (
    FRAME_PAGES, frame_get, frame_peek, frame_put, frame_seal, frame_set, frame_state, frame_sum,
)
from sparrow._native.extent.sync cimport sync_file
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_PAGE_DATA, SP_PAGE_LOST, SP_STATE_CLEAN
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE, page_drop
from sparrow._native.reactor cimport Timer, now_boot, task_queue, timer_set
from sparrow._native.sys cimport EAGAIN, EBADMSG, EINVAL, EIO, ENOMEM, free, malloc, memcpy
from sparrow._native.volume cimport REQ_PAGES_MAX, REQ_READ, BlockReq, Core, Frame, Volume, Waiter
from sparrow._native.wal.condemn cimport condemn

cdef uint64_t FOREVER = <uint64_t>-1
cdef uint64_t RETRY_NS = 1000000


cdef void submit(Command *command, uint64_t first, uint32_t count, uint64_t view) noexcept nogil:
    command.req.volume = command.volume
    command.req.kind = REQ_READ
    command.req.internal = True
    command.req.first_page = first
    command.req.page_count = count
    command.req.lsn = view
    block_submit(&command.req)


cdef void release(Command *command) noexcept nogil:
    cdef uint32_t i
    for i in range(command.req.page_count):
        page_drop(&command.core.reactor.pool, command.req.pages[i])


# ---------------------------------------------------------------- digests

cdef void do_digests(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    cdef uint64_t outcome = 0
    if command == NULL:
        return
    if mail.c == 0 or mail.c > REQ_PAGES_MAX:
        command_done(command, -EINVAL, 0, 0, 0, NULL, 0)
        return
    if volume.super.now.state != SP_STATE_CLEAN or volume.suspect:
        outcome = 2
    elif volume.extents_lsn > mail.a:
        outcome = 3
    elif volume.commit_lsn < mail.a:
        outcome = 2
    if outcome != 0:
        command_done(command, 0, outcome, volume.commit_lsn, volume.applied_lsn, NULL, 0)
        return
    volume.views += 1
    command.req.done = on_digest_pages
    submit(command, mail.b, <uint32_t>mail.c, mail.a)


cdef void on_digest_pages(BlockReq *req, int rc) noexcept nogil:
    cdef Command *command = <Command *>req.owner
    cdef Volume *volume = command.volume
    cdef uint32_t *sums
    cdef uint64_t *bad
    cdef uint32_t i
    volume.views -= 1
    task_queue(volume.reactor, &volume.flush.task)
    if volume.follow != NULL:
        task_queue(volume.reactor, &volume.follow.task)
    if rc == -EIO:
        bad = <uint64_t *>malloc(8)
        if bad != NULL:
            bad[0] = req.bad_page
        command_done(command, 0, 4, volume.commit_lsn, volume.applied_lsn, <uint8_t *>bad, 8 if bad != NULL else 0)
        return
    if rc < 0:
        command_done(command, rc, 0, 0, 0, NULL, 0)
        return
    sums = <uint32_t *>malloc(4 * req.page_count)
    if sums != NULL:
        for i in range(req.page_count):
            sums[i] = crc_page(req.pages[i])
    release(command)
    command_done(
        command, 0 if sums != NULL else -ENOMEM, 1, volume.commit_lsn, volume.applied_lsn, <uint8_t *>sums,
        4 * req.page_count if sums != NULL else 0,
    )


# ---------------------------------------------------------------- one page for a peer

cdef void do_read_page(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command
    if volume.commit_lsn < mail.b or volume.super.now.state != SP_STATE_CLEAN or volume.suspect:
        done_up(core.reactor, mail.token, -EAGAIN, 0, 0, 0, NULL, 0)
        free(mail.data)
        return
    command = command_new(core, volume, mail)
    if command == NULL:
        return
    command.at = volume.commit_lsn
    command.req.done = on_page
    submit(command, mail.a, 1, 0)


cdef void on_page(BlockReq *req, int rc) noexcept nogil:
    cdef Command *command = <Command *>req.owner
    cdef uint8_t *copy
    if rc < 0:
        command_done(command, rc, 0, 0, 0, NULL, 0)
        return
    copy = <uint8_t *>malloc(PAGE)
    if copy != NULL:
        memcpy(copy, req.pages[0], PAGE)
    release(command)
    command_done(command, 0 if copy != NULL else -ENOMEM, command.at, 0, 0, copy, PAGE if copy != NULL else 0)


# ---------------------------------------------------------------- one page from a peer

cdef void do_repair(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    if command == NULL:
        return
    if mail.length != PAGE or mail.a >= volume.pages or volume.frozen:
        read_repaired(volume, mail.a, -EIO)
        command_done(command, 0, 0, 0, 0, NULL, 0)
        return
    command.waiter.wake = on_repair_frame
    # The flusher and an emptying wait: the sum that is compared is the one of the page that is written.
    volume.views += 1
    repair(command)


cdef void on_repair_frame(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc < 0:
        repair_done(command, -EIO, 0)
        return
    repair(command)


cdef void repair_done(Command *command, int rc, uint64_t installed) noexcept nogil:
    cdef Volume *volume = command.volume
    volume.views -= 1
    task_queue(volume.reactor, &volume.flush.task)
    cdef bint another = rc == -EAGAIN or rc == -EBADMSG
    if not another:
        read_repaired(volume, command.mail.a, rc)
    command_done(command, rc if another else 0, installed, 0, 0, NULL, 0)


cdef void repair(Command *command) noexcept nogil:
    cdef Volume *volume = command.volume
    cdef Frame *frame
    cdef bint right, lost
    if dirty_find(command.core, volume, command.mail.a, FOREVER) != NULL or not flush_idle(volume):
        # A newer version is logged or on its way into the extents: the damaged one is overwritten anyway.
        repair_done(command, 0, 0)
        return
    frame = frame_get(command.core, volume, command.mail.a, &command.waiter)
    if frame == NULL:
        return
    lost = frame_state(frame, command.mail.a) == SP_PAGE_LOST
    if lost:
        right = volume.extents_lsn <= command.mail.b and command.mail.b <= volume.commit_lsn
    else:
        right = (
            frame_state(frame, command.mail.a) == SP_PAGE_DATA
            and frame_sum(frame, command.mail.a) == crc_page(command.mail.data)
        )
    frame_put(frame)
    if not right:
        # Another peer's page, or the next answer for a lost one, may serve: who waits goes on waiting.
        repair_done(command, -EAGAIN if lost else -EBADMSG, 0)
        return
    command.stage = lost
    command.op.done = on_page_written
    command.iov.iov_base = command.mail.data
    command.iov.iov_len = PAGE
    volume.reactor.io.write(
        &volume.reactor.io, &command.op, volume.ext_fd, &command.iov, 1, command.mail.a * PAGE, False
    )


cdef void on_page_written(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    if res != PAGE:
        repair_done(command, -EIO, 0)
        return
    command.waiter.wake = on_page_durable
    sync_file(&command.volume.ext_sync, &command.waiter)


cdef void on_page_durable(Waiter *waiter, int rc) noexcept nogil:
    """The page is on the disk; if its sum was lost, that is next: the flusher stands still, and other repairs take turns."""
    cdef Command *command = <Command *>waiter.owner
    if rc < 0:
        condemn(command.volume, 2, rc)
        repair_done(command, -EIO, 0)
    elif command.stage:
        waiter.wake = on_lost_frame
        patch_lost(command)
    else:
        repair_done(command, 0, 1)


cdef void on_lost_frame(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc < 0:
        repair_done(command, -EIO, 0)
        return
    patch_lost(command)


cdef void patch_lost(Command *command) noexcept nogil:
    cdef Volume *volume = command.volume
    cdef Frame *frame = frame_get(command.core, volume, command.mail.a, &command.waiter)
    if frame == NULL:
        return
    if frame.op.busy:
        # Another page of this block was lost, and is being written: it is this one's turn when that is done.
        frame_put(frame)
        command.timer.fire = on_patch_retry
        timer_set(command.core.reactor, &command.timer, now_boot(command.core.reactor) + RETRY_NS)
        return
    frame_set(frame, command.mail.a, SP_PAGE_DATA, crc_page(command.mail.data))
    frame_seal(frame)
    frame.dirty = True
    frame.op.done = on_lost_patched
    frame.op.owner = command
    frame.iov.iov_base = frame.data
    frame.iov.iov_len = PAGE
    volume.reactor.io.write(
        &volume.reactor.io, &frame.op, volume.sums_fd, &frame.iov, 1, command.mail.a // FRAME_PAGES * PAGE, False
    )


cdef void on_patch_retry(Timer *timer) noexcept nogil:
    patch_lost(<Command *>timer.owner)


cdef void on_lost_patched(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    cdef Volume *volume = command.volume
    cdef Frame *frame = frame_peek(command.core, volume, command.mail.a // FRAME_PAGES)
    if res == PAGE:
        frame.dirty = False
    frame_put(frame)
    command.waiter.wake = on_sum_durable
    if res != PAGE:
        on_sum_durable(&command.waiter, res if res < 0 else -EIO)
    else:
        sync_file(&volume.sums_sync, &command.waiter)


cdef void on_sum_durable(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc < 0:
        condemn(command.volume, 3, rc)
    repair_done(command, -EIO if rc < 0 else 0, 0 if rc < 0 else 1)
