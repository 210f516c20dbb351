"""The base lane of a rebuild, follower's side: frames into the extents and their states and sums.

Why a page that was installed holds what the log says is argued in base_receive.pyx.

Several at once. Up to INSTALLS frames are being written at the same time, so the pages of a later one may land first.
Nobody can tell: two frames that speak of one page are never under way together, the flusher and the puncher stand still
(`views`) until none is, and a rebuilding replica is read by nobody. The as-of LSN of a frame counts from the moment it
is taken, not from when it is written: the flusher, which may go up to it, begins when all that were taken are written.
It is let in, for a base lane that never paused would keep it out for ever (`flush.wanted`). A sums block is written
with what all frames that wait for it bring, one write at a time, so a block in the file is never half of two versions.
`behind` tells the kernel to begin with the pages at once, so that the flush of a mark finds little left to do; nothing
is concluded from it.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.commit cimport commit_hear
from sparrow._native.crc cimport crc_page
from sparrow._native.extent.flusher cimport flush_idle
from sparrow._native.extent.punch cimport punch_hint
from sparrow._native.extent.sums cimport FRAME_PAGES, frame_get, frame_put, frame_seal, frame_set, frame_zero
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_BASE_HEAD_SIZE, SP_BASE_PAGES_MAX, SP_PAGE_DATA, SP_STATE_REBUILDING, sp_base_head,
)
from sparrow._native.pool cimport PAGE, page_drop
from sparrow._native.reactor cimport task_queue
from sparrow._native.replication.base_marks cimport marks_go_on
from sparrow._native.replication.base_receive cimport base_spoil
from sparrow._native.sys cimport EAGAIN, EBADMSG, EIO, EPROTO, sp_crc32c
from sparrow._native.volume cimport (
    INSTALL_FREE, INSTALL_PAGES, INSTALL_SUMS, INSTALL_WRITTEN, Core, Follow, Frame, Install, Volume, Waiter,
)
from sparrow._native.wal.reach cimport reach_covers, reach_note
from sparrow._native.wal.superblock cimport super_write

cdef enum:
    BEHIND_PAGES = 128         # written back as soon as so many are there
    BEHIND_PAGES_MAX = 65536


cdef int base_install(Follow *follow) noexcept nogil:
    """Begin to write a frame. The link goes on: up to INSTALLS are under way, and what is said of one page by two of
    them is written in the order it came."""
    cdef Volume *volume = follow.volume
    cdef sp_base_head *head = <sp_base_head *>follow.body[0]
    cdef uint32_t check = head.check
    cdef Install *install
    cdef uint32_t i
    cdef uint32_t n = 0
    if volume.super.now.state != SP_STATE_REBUILDING or volume.log.head_lsn == 0:
        return -EPROTO
    # The flusher and the base lane write the extents in turns, else an older page could land last.
    if not flush_idle(volume) or (volume.flush.wanted and follow.installing > 0):
        return -EAGAIN
    if not may_reach(follow, head.first_page):
        return -EAGAIN
    install = a_place(follow, head)
    if install == NULL:
        return -EAGAIN
    head.check = 0
    if (
        check != sp_crc32c(0, head, SP_BASE_HEAD_SIZE)
        or head.page_count > SP_BASE_PAGES_MAX
        or head.first_page > volume.pages
        or head.page_count > volume.pages - head.first_page
        or head.data_count + 1 != follow.body_pages
        or head.first_page // SP_BASE_PAGES_MAX != (head.first_page + head.page_count - 1) // SP_BASE_PAGES_MAX
        or head.page_count == 0
        or follow.frame.as_of_lsn < volume.base_as_of
        or follow.frame.as_of_lsn < volume.applied_lsn
    ):
        return -EBADMSG
    for i in range(head.page_count):
        if head.states[i] == SP_PAGE_DATA:
            n += 1
            if n > head.data_count or crc_page(follow.body[n]) != head.sums[i]:
                return -EBADMSG
    if n != head.data_count:
        return -EBADMSG
    head.check = check
    # The flusher stands still until all that are under way are written, so it never applies beyond what they bring.
    volume.base_as_of = follow.frame.as_of_lsn
    follow.base_witness = max(follow.base_witness, frame_reach(follow))
    volume.extents_lsn = max(volume.extents_lsn, volume.base_as_of)
    volume.views += 1
    follow.installing += 1
    follow.arrived += 1
    install.follow = follow
    install.stage = INSTALL_PAGES
    install.number = follow.arrived
    install.as_of = follow.frame.as_of_lsn
    install.at = 0
    install.run = 0
    install.pages = follow.body_pages
    for i in range(follow.body_pages):
        install.body[i] = follow.body[i]
    follow.body_pages = 0
    install.op.done = on_base_written
    install.op.owner = install
    commit_hear(volume, follow.frame.commit_lsn)
    write_base(install)
    return 0


cdef inline uint64_t frame_reach(const Follow *follow) noexcept nogil:
    """The newest entry that its pages may hold. They are at least as new as its as-of LSN, and may be as new as what had
    committed when it was sent: a read that waits, for checksums or for memory, takes what has committed by then."""
    return max(follow.frame.as_of_lsn, follow.frame.commit_lsn)


cdef bint may_reach(Follow *follow, uint64_t first_page) noexcept nogil:
    """A page below the cursor becomes newer only when the superblock says so (wal/reach.pyx)."""
    cdef Volume *volume = follow.volume
    if first_page >= volume.super.now.base_cursor or reach_covers(volume, frame_reach(follow)):
        return True
    if not follow.reaching:
        follow.reaching = True
        follow.reach_waiter.wake = on_reach
        follow.reach_waiter.owner = follow
        reach_note(volume, follow.epoch, follow.start, frame_reach(follow))
        super_write(volume, &follow.reach_waiter)
    return False


cdef void on_reach(Waiter *waiter, int rc) noexcept nogil:
    cdef Follow *follow = <Follow *>waiter.owner
    follow.reaching = False
    if rc < 0:
        base_spoil(follow, rc)
    task_queue(follow.volume.reactor, &follow.task)


cdef Install *a_place(Follow *follow, const sp_base_head *head) noexcept nogil:
    """A free one; NULL while there is none, or while one is under way that speaks of the same pages."""
    cdef Install *install = NULL
    cdef const sp_base_head *other
    cdef int i
    for i in range(INSTALLS):
        if follow.installs[i].stage == INSTALL_FREE:
            install = &follow.installs[i]
            continue
        other = <const sp_base_head *>follow.installs[i].body[0]
        if head.first_page < other.first_page + other.page_count and other.first_page < head.first_page + head.page_count:
            return NULL
    return install


cdef void write_base(Install *install) noexcept nogil:
    """One run of adjacent data pages after the other, then the sums."""
    cdef Follow *follow = install.follow
    cdef Volume *volume = follow.volume
    cdef sp_base_head *head = <sp_base_head *>install.body[0]
    cdef uint8_t *page
    cdef uint32_t pieces = 0
    cdef uint32_t n = 0
    cdef uint64_t first
    while install.at < head.page_count and head.states[install.at] != SP_PAGE_DATA:
        install.at += 1
    if install.at == head.page_count:
        install.stage = INSTALL_WRITTEN
        patch_base(follow)
        return
    first = head.first_page + install.at
    while install.at < head.page_count and head.states[install.at] == SP_PAGE_DATA:
        page = install.body[1 + install.run]
        if pieces != 0 and <uint8_t *>install.iov[pieces - 1].iov_base + install.iov[pieces - 1].iov_len == page:
            install.iov[pieces - 1].iov_len += PAGE
        else:
            install.iov[pieces].iov_base = page
            install.iov[pieces].iov_len = PAGE
            pieces += 1
        install.run += 1
        install.at += 1
        n += 1
    install.op.tag = n * PAGE
    volume.reactor.io.write(
        &volume.reactor.io, &install.op, volume.ext_fd, install.iov, pieces, first * PAGE, False
    )


cdef void on_base_written(Op *op, int32_t res) noexcept nogil:
    cdef Install *install = <Install *>op.owner
    cdef const sp_base_head *head = <const sp_base_head *>install.body[0]
    if res != <int32_t>op.tag:
        installed(install, res if res < 0 else -EIO)
        return
    write_behind(install.follow, head.first_page, head.page_count)
    write_base(install)


cdef void installed(Install *install, int rc) noexcept nogil:
    """The frame is dealt with; the link's task goes on, also when the link is over."""
    cdef Follow *follow = install.follow
    cdef Volume *volume = follow.volume
    cdef uint32_t i
    if rc == 0:
        follow.base_bytes += install.pages * PAGE
    for i in range(install.pages):
        page_drop(&volume.reactor.pool, install.body[i])
    install.stage = INSTALL_FREE
    follow.installing -= 1
    volume.views -= 1
    if rc < 0:
        base_spoil(follow, rc)
    marks_go_on(follow)
    task_queue(volume.reactor, &volume.flush.task)
    task_queue(volume.reactor, &follow.task)


cdef void write_behind(Follow *follow, uint64_t first, uint64_t count) noexcept nogil:
    """The disk begins at once with what a mark will wait for. One call at a time, for all written since the last."""
    cdef Volume *volume = follow.volume
    if follow.behind_from == follow.behind_end:
        follow.behind_from = first
        follow.behind_end = first + count
    else:
        follow.behind_from = min(follow.behind_from, first)
        follow.behind_end = max(follow.behind_end, first + count)
    if follow.behind_op.busy or follow.over or follow.behind_end - follow.behind_from < BEHIND_PAGES:
        return
    first = follow.behind_from
    # Adjacent frames in the second pass may lie far apart: what is between them has nothing to be written.
    count = min(follow.behind_end - first, <uint64_t>BEHIND_PAGES_MAX)
    follow.behind_from = follow.behind_end
    volume.reactor.io.behind(&volume.reactor.io, &follow.behind_op, volume.ext_fd, first * PAGE, count * PAGE)


cdef void on_behind(Op *op, int32_t res) noexcept nogil:
    """Whatever came of it: an error is the next flush's to tell."""
    task_queue((<Follow *>op.owner).volume.reactor, &(<Follow *>op.owner).task)


# ---------------------------------------------------------------- sums


cdef void patch_base(Follow *follow) noexcept nogil:
    """One sums block at a time, for all frames that wait for it: none is changed in memory while it is being written."""
    cdef Volume *volume = follow.volume
    cdef Core *core = <Core *>volume.reactor.core
    cdef Install *oldest
    cdef Install *install
    cdef Frame *frame
    cdef uint64_t block
    cdef int i
    while not follow.patching:
        oldest = NULL
        for i in range(INSTALLS):
            install = &follow.installs[i]
            if install.stage == INSTALL_WRITTEN and (oldest == NULL or install.number < oldest.number):
                oldest = install
        if oldest == NULL:
            return
        follow.base_waiter.wake = on_base_frame
        follow.base_waiter.owner = follow
        follow.patching = True
        # A run lies within 64 aligned pages, so in one sums block: 960 is a multiple of 64.
        block = (<const sp_base_head *>oldest.body[0]).first_page // FRAME_PAGES
        frame = frame_get(core, volume, block * FRAME_PAGES, &follow.base_waiter)
        if frame == NULL:
            return
        for i in range(INSTALLS):
            install = &follow.installs[i]
            if install.stage == INSTALL_WRITTEN and (
                (<const sp_base_head *>install.body[0]).first_page // FRAME_PAGES == block
            ):
                install.stage = INSTALL_SUMS
                patch_frame(volume, frame, install)
        frame_seal(frame)
        follow.base_iov[0].iov_base = frame.data
        follow.base_iov[0].iov_len = PAGE
        follow.base_frame = frame
        follow.base_op.done = on_base_sums
        volume.reactor.io.write(
            &volume.reactor.io, &follow.base_op, volume.sums_fd, follow.base_iov, 1, block * PAGE, False
        )


cdef void patch_frame(Volume *volume, Frame *frame, const Install *install) noexcept nogil:
    cdef const sp_base_head *head = <const sp_base_head *>install.body[0]
    cdef uint64_t first = head.first_page
    cdef uint32_t i
    for i in range(head.page_count):
        if head.states[i] == SP_PAGE_DATA:
            frame_set(frame, first + i, SP_PAGE_DATA, head.sums[i])
        elif frame_zero(frame, first + i, first + i + 1):
            # What stood here before must not survive: it reads as zeros from now on, and its place may go.
            punch_hint(volume, first + i, 1, install.as_of)


cdef void on_base_frame(Waiter *waiter, int rc) noexcept nogil:
    """The block is there, or cannot be read: then the frame that wanted it is not installed."""
    cdef Follow *follow = <Follow *>waiter.owner
    cdef int i
    follow.patching = False
    if rc < 0:
        for i in range(INSTALLS):
            if follow.installs[i].stage == INSTALL_WRITTEN:
                installed(&follow.installs[i], rc)
        return
    patch_base(follow)


cdef void on_base_sums(Op *op, int32_t res) noexcept nogil:
    cdef Follow *follow = <Follow *>op.owner
    cdef int i
    frame_put(follow.base_frame)
    follow.patching = False
    for i in range(INSTALLS):
        if follow.installs[i].stage == INSTALL_SUMS:
            installed(&follow.installs[i], 0 if res == PAGE else (res if res < 0 else -EIO))
    patch_base(follow)
