"""A damaged sums block is rebuilt from what in-sync peers say of its pages, never from the extents it should prove.

Safety argument. A block as of LSN L is the state and sum of each page in the committed view at L. L is committed here
and not below `extents_lsn`, and what is committed is the same on every replica. So for a page that was not written in
(applied, L] the peer's sum is that of what the extents must hold. For a page that was, the extents may hold something
older, but then a version at or below the commit LSN is in the dirty map: every read finds it there, the flusher puts
its own sum in place before that version goes, and after a crash recovery brings it back. Nothing below L can be cut
from the log, because it is committed. That the content itself is right is not taken for granted: each page read from
the extents is held against its new sum as ever, and repaired if it differs.

A page of which no peer has a sum is marked `lost`: reading it is an error, writing it makes it data again, and it is
repaired like a damaged page when a peer that has it comes back.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.control.command cimport Command, command_done, command_new
from sparrow._native.extent.dirty cimport dirty_find
from sparrow._native.extent.flusher cimport flush_again, flush_idle
from sparrow._native.extent.read cimport read_block_mended
from sparrow._native.extent.sums cimport (
    FRAME_PAGES, block_check, block_valid, frame_get, frame_peek, frame_put, frame_seal, frame_state,
)
from sparrow._native.extent.sync cimport sync_file
from sparrow._native.events cimport done_up
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_PAGE_DATA, SP_PAGE_LOST, SP_PAGE_ZERO, SP_STATE_CLEAN, sp_sums_block,
)
from sparrow._native.mailbox cimport Mail
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport EAGAIN, EBADMSG, EINVAL, EIO, ENOMEM, free, malloc, memcpy, memset
from sparrow._native.volume cimport FRAME_BAD, FRAME_LOADING, FRAME_VALID, Core, Frame, Version, Volume, Waiter
from sparrow._native.waiters cimport wake_all
from sparrow._native.wal.condemn cimport condemn

cdef enum Outcome:
    DONE = 1
    BEHIND = 2
    PASSED = 3


cdef inline uint32_t verdict(Volume *volume, uint64_t lsn) noexcept nogil:
    """Whether the committed view at this LSN can be told here."""
    if volume.extents_lsn > lsn:
        return PASSED
    return BEHIND if volume.commit_lsn < lsn else DONE


cdef inline bint has_block(Volume *volume, uint64_t block) noexcept nogil:
    return block < (volume.pages + FRAME_PAGES - 1) // FRAME_PAGES


cdef Command *begin(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    """While it is under way nothing is emptied and no new round of the flusher begins."""
    cdef Command *command = command_new(core, volume, mail)
    if command != NULL:
        volume.views += 1
    return command


cdef void finish(
    Command *command, int rc, uint64_t a, uint64_t b, uint64_t c, uint8_t *data, uint64_t length
) noexcept nogil:
    cdef Volume *volume = command.volume
    volume.views -= 1
    task_queue(volume.reactor, &volume.flush.task)
    if volume.follow != NULL:
        task_queue(volume.reactor, &volume.follow.task)
    command_done(command, rc, a, b, c, data, length)


# ---------------------------------------------------------------- a block for a peer

cdef void do_read_sums(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command = begin(core, volume, mail)
    if command == NULL:
        return
    if not has_block(volume, mail.a):
        finish(command, -EINVAL, 0, 0, 0, NULL, 0)
        return
    command.waiter.wake = on_own_frame
    answer(command)


cdef void on_own_frame(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc < 0:
        finish(command, rc if rc == -EBADMSG else -EAGAIN, 0, 0, 0, NULL, 0)
        return
    answer(command)


cdef void answer(Command *command) noexcept nogil:
    cdef Volume *volume = command.volume
    cdef uint64_t lsn = command.mail.b
    cdef uint32_t found = verdict(volume, lsn)
    cdef Frame *frame
    cdef uint8_t *copy
    if volume.super.now.state != SP_STATE_CLEAN or volume.suspect:
        finish(command, -EAGAIN, 0, 0, 0, NULL, 0)
        return
    if found != DONE:
        finish(command, 0, found, volume.commit_lsn, volume.extents_lsn, NULL, 0)
        return
    frame = frame_get(command.core, volume, command.mail.a * FRAME_PAGES, &command.waiter)
    if frame == NULL:
        return
    copy = <uint8_t *>malloc(PAGE)
    if copy != NULL:
        as_of(command, frame, <sp_sums_block *>copy)
    frame_put(frame)
    finish(
        command, 0 if copy != NULL else -ENOMEM, DONE, volume.commit_lsn, volume.extents_lsn, copy,
        PAGE if copy != NULL else 0,
    )


cdef void put(sp_sums_block *block, uint32_t i, uint32_t state, uint32_t sum) noexcept nogil:
    cdef uint32_t shift = 2 * (i % 4)
    block.states[i // 4] = <uint8_t>((block.states[i // 4] & ~(3 << shift)) | (state << shift))
    block.sums[i] = sum


cdef void as_of(Command *command, Frame *frame, sp_sums_block *to) noexcept nogil:
    """The block with what the log knows above it, up to the LSN asked for."""
    cdef Volume *volume = command.volume
    cdef uint64_t first = command.mail.a * FRAME_PAGES
    cdef Version *version
    cdef uint32_t i
    memcpy(to, frame.data, PAGE)
    for i in range(FRAME_PAGES):
        version = dirty_find(command.core, volume, first + i, command.mail.b)
        if version != NULL:
            put(to, i, SP_PAGE_ZERO if version.data == NULL else SP_PAGE_DATA, version.sum)
    to.check = block_check(volume, to, command.mail.a)


# ---------------------------------------------------------------- a block from peers

cdef void do_mend_sums(Core *core, Volume *volume, const Mail *mail) noexcept nogil:
    cdef Command *command
    cdef uint64_t i
    cdef int rc = 0
    if volume.condemned or volume.frozen:
        rc = -EIO
    elif not has_block(volume, mail.a) or mail.length % PAGE != 0:
        rc = -EINVAL
    else:
        for i in range(mail.length // PAGE):
            if not block_valid(volume, <sp_sums_block *>(mail.data + i * PAGE), mail.a):
                rc = -EBADMSG
    if rc < 0:
        done_up(core.reactor, mail.token, rc, 0, 0, 0, NULL, 0)
        free(mail.data)
        return
    command = begin(core, volume, mail)
    if command == NULL:
        return
    command.waiter.wake = on_bad_frame
    look(command)


cdef void look(Command *command) noexcept nogil:
    """It may have left memory since it was reported, and may be whole when it is read again."""
    cdef Frame *frame = frame_peek(command.core, command.volume, command.mail.a)
    if frame != NULL and frame.state == FRAME_BAD:
        frame.pins += 1
    else:
        frame = frame_get(command.core, command.volume, command.mail.a * FRAME_PAGES, &command.waiter)
        if frame == NULL:
            return
    mend(command, frame)


cdef void on_bad_frame(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    if rc == -ENOMEM:
        finish(command, -EAGAIN, 0, 0, 0, NULL, 0)
    else:
        look(command)


cdef uint64_t lost_pages(Volume *volume, Frame *frame) noexcept nogil:
    cdef uint64_t first = frame.block * FRAME_PAGES
    cdef uint64_t lost = 0
    cdef uint32_t i
    for i in range(FRAME_PAGES):
        lost += first + i < volume.pages and frame_state(frame, first + i) == SP_PAGE_LOST
    return lost


cdef void fill(Command *command, Frame *frame) noexcept nogil:
    """Give each page without a state what the first image says that has one."""
    cdef const sp_sums_block *image
    cdef sp_sums_block *block = <sp_sums_block *>frame.data
    cdef uint64_t k
    cdef uint32_t i, state
    for i in range(FRAME_PAGES):
        if frame_state(frame, i) != SP_PAGE_LOST:
            continue
        for k in range(command.mail.length // PAGE):
            image = <const sp_sums_block *>(command.mail.data + k * PAGE)
            state = image.states[i // 4] >> (2 * (i % 4)) & 3
            if state != SP_PAGE_LOST:
                put(block, i, state, image.sums[i])
                break


cdef void lose_all(Volume *volume, sp_sums_block *block, uint64_t number) noexcept nogil:
    cdef uint32_t i
    for i in range(FRAME_PAGES):
        if number * FRAME_PAGES + i < volume.pages:
            put(block, i, SP_PAGE_LOST, 0)


cdef void mend(Command *command, Frame *frame) noexcept nogil:
    """`frame` is pinned for this command. A damaged one is nobody else's; a whole one is the flusher's too."""
    cdef Volume *volume = command.volume
    cdef sp_sums_block *block = <sp_sums_block *>frame.data
    cdef bint damaged = frame.state == FRAME_BAD
    cdef uint32_t found = verdict(volume, command.mail.b) if command.mail.length > 0 else DONE
    if not damaged and lost_pages(volume, frame) == 0:
        frame_put(frame)
        finish(command, 0, DONE, 0, 0, NULL, 0)
        return
    if found != DONE:
        frame_put(frame)
        finish(command, 0, found, 0, 0, NULL, 0)
        return
    if frame.op.busy or not (damaged or flush_idle(volume)):
        frame_put(frame)
        finish(command, -EAGAIN, 0, 0, 0, NULL, 0)
        return
    if damaged:
        memset(block, 0, PAGE)
        lose_all(volume, block, command.mail.a)
        block.format = 1
        block.block = command.mail.a
        # From here on whoever wants it waits for it, instead of being told that it is damaged.
        frame.state = FRAME_LOADING
    if command.mail.length > 0:
        fill(command, frame)
        volume.extents_lsn = max(volume.extents_lsn, command.mail.b)
    frame_seal(frame)
    frame.dirty = True
    frame.op.done = on_written
    frame.op.owner = command
    frame.iov.iov_base = frame.data
    frame.iov.iov_len = PAGE
    volume.reactor.io.write(
        &volume.reactor.io, &frame.op, volume.sums_fd, &frame.iov, 1, command.mail.a * PAGE, False
    )


cdef void on_written(Op *op, int32_t res) noexcept nogil:
    cdef Command *command = <Command *>op.owner
    command.waiter.wake = on_mended
    if res != PAGE:
        on_mended(&command.waiter, res if res < 0 else -EIO)
    else:
        sync_file(&command.volume.sums_sync, &command.waiter)


cdef void on_mended(Waiter *waiter, int rc) noexcept nogil:
    cdef Command *command = <Command *>waiter.owner
    cdef Volume *volume = command.volume
    cdef Frame *frame = frame_peek(command.core, volume, command.mail.a)
    frame.dirty = False
    frame.state = FRAME_VALID if rc == 0 else FRAME_BAD
    frame_put(frame)
    if rc < 0:
        condemn(volume, 3, rc)
    wake_all(&frame.waiters, -EBADMSG if rc < 0 else 0)
    if rc == 0:
        read_block_mended(volume, command.mail.a)
        flush_again(volume)
    finish(command, rc, DONE, lost_pages(volume, frame), 0, NULL, 0)
