"""Digests of pages as of one LSN, a page for a peer, a page from a peer.

A digest is exact: while it is taken the flusher stands still, so the extents hold nothing above the applied LSN, and the
dirty map still has every version above it. A repair is checked against the own sum: this replica knows what the page
must be, a peer's page that does not match is as good as none.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.block cimport block_submit
from sparrow._native.control.command cimport Command, command_done, command_new
from sparrow._native.crc cimport crc_page
from sparrow._native.events cimport done_up
from sparrow._native.extent.dirty cimport dirty_find
from sparrow._native.extent.flusher cimport flush_idle
from sparrow._native.extent.read cimport read_repaired
from sparrow._native.extent.sums cimport frame_get, frame_put, frame_state, frame_sum
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_PAGE_DATA, SP_STATE_CLEAN
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE, page_drop
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport EAGAIN, EBADMSG, EINVAL, EIO, ENOMEM, free, malloc, memcpy
from sparrow._native.volume cimport REQ_PAGES_MAX, REQ_READ, BlockReq, Core, Frame, Volume, Waiter

cdef uint64_t FOREVER = <uint64_t>-1


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
    elif volume.applied_lsn > mail.a or (not flush_idle(volume) and volume.flush.target > mail.a):
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
    if mail.length != PAGE or mail.a >= volume.pages:
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
    read_repaired(volume, command.mail.a, rc)
    command_done(command, 0, installed, 0, 0, NULL, 0)


cdef void repair(Command *command) noexcept nogil:
    cdef Volume *volume = command.volume
    cdef Frame *frame
    cdef bint right
    if dirty_find(command.core, volume, command.mail.a, FOREVER) != NULL or not flush_idle(volume):
        # A newer version is logged or on its way into the extents: the damaged one is overwritten anyway.
        repair_done(command, 0, 0)
        return
    frame = frame_get(command.core, volume, command.mail.a, &command.waiter)
    if frame == NULL:
        return
    right = (
        frame_state(frame, command.mail.a) == SP_PAGE_DATA
        and frame_sum(frame, command.mail.a) == crc_page(command.mail.data)
    )
    frame_put(frame)
    if not right:
        repair_done(command, -EIO, 0)
        return
    command.op.done = on_repaired
    command.iov.iov_base = command.mail.data
    command.iov.iov_len = PAGE
    volume.reactor.io.write(
        &volume.reactor.io, &command.op, volume.ext_fd, &command.iov, 1, command.mail.a * PAGE, True
    )


cdef void on_repaired(Op *op, int32_t res) noexcept nogil:
    repair_done(<Command *>op.owner, 0 if res == PAGE else -EIO, 1 if res == PAGE else 0)
