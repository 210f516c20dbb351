"""Steps of a scrub. The control side decides what is looked at and when; here one block or some pages are.

The usual descriptors read through the page cache, which may hold what the disk has long lost, so a scrub brings its
own. Pages are read by the ordinary path, through the committed view and against their sums: what is logged and not yet
applied is about to be written anyway. A block of sums is compared with the copy in memory where there is one: that one
was whole when it was read, or was made here, and is written again when the disk has something else.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.block cimport block_submit
from sparrow._native.control.command cimport Command, command_done, command_new
from sparrow._native.extent.flusher cimport flush_idle
from sparrow._native.extent.sums cimport FRAME_PAGES, block_valid, frame_get, frame_put, frame_state
from sparrow._native.extent.sync cimport sync_file
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_PAGE_LOST, SP_STATE_CLEAN, sp_sums_block
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE, page_drop
from sparrow._native.reactor cimport Timer, now_boot, task_queue, timer_set
from sparrow._native.sys cimport EAGAIN, EBADMSG, EINVAL, EIO, ENOMEM, free, malloc, memcmp
from sparrow._native.volume cimport REQ_PAGES_MAX, REQ_READ, BlockReq, Core, Frame, Volume, Waiter
from sparrow._native.wal.condemn cimport condemn

cdef uint64_t RETRY_NS = 1000000

cdef enum Found:
    WHOLE = 1
    REWRITTEN = 2
    DAMAGED = 3


# ---------------------------------------------------------------- sums

cdef void do_check_sums(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    if command == NULL:
        return
    volume.views += 1
    if mail.a >= (volume.pages + FRAME_PAGES - 1) // FRAME_PAGES:
        finish(command, -EINVAL, 0, 0)
        return
    command.buffer = <uint8_t *>malloc(2 * PAGE)
    if command.buffer == NULL:
        finish(command, -ENOMEM, 0, 0)
        return
    command.waiter.wake = on_frame
    command.op.done = on_block_read
    command.iov.iov_base = aligned(command)
    command.iov.iov_len = PAGE
    volume.reactor.io.read(&volume.reactor.io, &command.op, <int>mail.b, &command.iov, 1, mail.a * PAGE)


cdef void finish(Command *command, int rc, uint64_t a, uint64_t b) noexcept nogil:
    cdef Volume *volume = command.volume
    free(command.buffer)
    command.buffer = NULL
    volume.views -= 1
    task_queue(volume.reactor, &volume.flush.task)
    if volume.follow != NULL:
        task_queue(volume.reactor, &volume.follow.task)
    command_done(command, rc, a, b, 0, NULL, 0)


cdef uint8_t *aligned(Command *command) noexcept nogil:
    return <uint8_t *>((<uint64_t>command.buffer + PAGE - 1) & ~<uint64_t>(PAGE - 1))


cdef void on_block_read(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    command.stage = res == PAGE and block_valid(
        command.volume, <const sp_sums_block *>aligned(command), command.mail.a
    )
    compare(command)


cdef void on_frame(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc == -EBADMSG:
        finish(command, 0, DAMAGED, 0)
    elif rc < 0:
        finish(command, -EAGAIN, 0, 0)
    else:
        compare(command)


cdef void compare(Command *command) noexcept nogil:
    """Read through the cache, a damaged block is reported as ever; what was whole there is written over the other."""
    cdef Volume *volume = command.volume
    cdef Frame *frame = frame_get(command.core, volume, command.mail.a * FRAME_PAGES, &command.waiter)
    cdef uint64_t lost
    if frame == NULL:
        return
    lost = lost_pages(volume, frame)
    if frame.dirty or frame.op.busy or (command.stage and memcmp(aligned(command), frame.data, PAGE) == 0):
        # Being written: the disk is about to have it.
        frame_put(frame)
        finish(command, 0, WHOLE, lost)
        return
    if not flush_idle(volume):
        frame_put(frame)
        command.timer.fire = on_retry
        timer_set(command.core.reactor, &command.timer, now_boot(command.core.reactor) + RETRY_NS)
        return
    command.end = lost
    frame.dirty = True
    frame.op.done = on_rewritten
    frame.op.owner = command
    frame.op.tag = <uint64_t>frame
    frame.iov.iov_base = frame.data
    frame.iov.iov_len = PAGE
    volume.reactor.io.write(
        &volume.reactor.io, &frame.op, volume.sums_fd, &frame.iov, 1, command.mail.a * PAGE, False
    )


cdef void on_retry(Timer *timer) noexcept nogil:
    """A round was at work, perhaps on this very block: what was read may be out of date."""
    cdef Command *command = <Command *>timer.owner
    cdef Volume *volume = command.volume
    volume.reactor.io.read(
        &volume.reactor.io, &command.op, <int>command.mail.b, &command.iov, 1, command.mail.a * PAGE
    )


cdef uint64_t lost_pages(Volume *volume, Frame *frame) noexcept nogil:
    cdef uint64_t first = frame.block * FRAME_PAGES
    cdef uint64_t lost = 0
    cdef uint64_t page
    for page in range(first, min(first + FRAME_PAGES, volume.pages)):
        lost += frame_state(frame, page) == SP_PAGE_LOST
    return lost


cdef void on_rewritten(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    cdef Frame *frame = <Frame *><void *>op.tag
    frame.dirty = False
    frame_put(frame)
    command.waiter.wake = on_durable
    if res != PAGE:
        on_durable(&command.waiter, res if res < 0 else -EIO)
    else:
        sync_file(&command.volume.sums_sync, &command.waiter)


cdef void on_durable(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc < 0:
        condemn(command.volume, 3, rc)
    finish(command, rc, REWRITTEN, command.end)


# ---------------------------------------------------------------- pages

cdef void do_check_pages(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = command_new(core, volume, mail)
    if command == NULL:
        return
    if mail.b == 0 or mail.b > REQ_PAGES_MAX:
        command_done(command, -EINVAL, 0, 0, 0, NULL, 0)
        return
    if volume.super.now.state != SP_STATE_CLEAN:
        command_done(command, -EAGAIN, 0, 0, 0, NULL, 0)
        return
    command.req.volume = volume
    command.req.kind = REQ_READ
    command.req.internal = True
    command.req.fd = <int>mail.c
    command.req.first_page = mail.a
    command.req.page_count = <uint32_t>mail.b
    command.req.done = on_pages
    block_submit(&command.req)


cdef void on_pages(BlockReq *req, int rc) noexcept nogil:
    cdef Command *command = <Command *>req.owner
    cdef uint32_t i
    if rc == -EIO:
        command_done(command, 0, 0, req.bad_page, 0, NULL, 0)
        return
    if rc < 0:
        command_done(command, rc, 0, 0, 0, NULL, 0)
        return
    for i in range(req.page_count):
        page_drop(&command.core.reactor.pool, req.pages[i])
    command_done(command, 0, 1, 0, 0, NULL, 0)
