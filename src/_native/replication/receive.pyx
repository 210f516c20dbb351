"""Receiving: frames become batches in the log, or pages of a rebuild in the extents; acks say what is durable.

Safety argument. A frame is taken only on a link whose term is the one promised; a fence for a newer term ends the link
before it is answered. A batch must continue this log: next LSN, parent check, own check and every page's sum, so what
is written is what the primary logged. What is acknowledged is the durable prefix of the own log, never what was merely
received, and never an entry whose loss would not be noticed (wal/joint.pyx). What a
rebuild may install, and when it is complete, stands in base_receive.pyx.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.commit cimport commit_hear
from sparrow._native.crc cimport crc_page
from sparrow._native.events cimport EVENT_PRIMARY_LOST, event_up
from sparrow._native.extent.behind cimport behind_room, behind_taken
from sparrow._native.extent.dirty cimport dirty_zero_room
from sparrow._native.extent.flusher cimport flush_urge
from sparrow._native.extent.room cimport RESERVE_PAGES, room_take
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_ACK_MAGIC, SP_BASE_PAGES_MAX, SP_BATCH_BYTES_MAX, SP_BATCH_ZEROS_MAX, SP_ENTRY_RESIZE, SP_ENTRY_TABLE,
    SP_ENTRY_TERM_START, SP_ENTRY_WRITE, SP_ENTRY_ZERO, SP_FRAME_BASE, SP_FRAME_BASE_DONE, SP_FRAME_BASE_MARK,
    SP_FRAME_BASE_START, SP_FRAME_BASE_TABLE, SP_TABLE_PAGES,
    SP_FRAME_BATCH, SP_FRAME_COMMIT, SP_SHIP_ACK_SIZE, SP_SHIP_FRAME_SIZE, SP_SHIP_MAGIC, SP_STATE_REBUILDING,
    SP_WAL_BATCH_SIZE, SP_WAL_ENTRY_SIZE, SP_ZERO_PAGES_MAX, sp_ship_ack, sp_ship_frame, sp_wal_batch, sp_wal_entry,
)
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.reactor cimport Task, Timer, now_boot, task_queue, timer_clear, timer_set
from sparrow._native.replication.base_install cimport base_install, on_behind
from sparrow._native.replication.base_marks cimport base_mark
from sparrow._native.replication.base_receive cimport base_done, base_look, base_start, base_table
from sparrow._native.resize cimport resize_files, resize_room
from sparrow._native.sys cimport (
    EAGAIN, EBADMSG, ENOMEM, EPROTO, calloc, free, malloc, memcpy, memset, sp_crc32c,
)
from sparrow._native.volume cimport RESIZES_MAX, Core, Follow, MemBatch, TermStart, Volume
from sparrow._native.wal.batches cimport batch_take_header
from sparrow._native.wal.joint cimport joint_look, joint_told
from sparrow._native.wal.log cimport (
    BLOCK, batch_tables, head_valid, log_room_received, log_take,
)

cdef enum:
    RX_BYTES = 131072

cdef enum:
    EINPROGRESS_BODY = 10115      # more bytes of the body are needed

cdef uint64_t RETRY_NS = 1000000


cdef int follow_start(Volume *volume, int fd, uint64_t epoch, uint64_t start) noexcept nogil:
    cdef Follow *follow = <Follow *>calloc(1, sizeof(Follow))
    if follow == NULL:
        return -ENOMEM
    follow.buffer = <uint8_t *>malloc(RX_BYTES)
    if follow.buffer == NULL:
        free(follow)
        return -ENOMEM
    follow_drop(volume, 0)
    if volume.super.now.state == SP_STATE_REBUILDING and volume.links > 0:
        # A base page of the link before is still being written: nothing of this one may land before it.
        free(follow.buffer)
        free(follow)
        return -EAGAIN
    volume.reactor.io.no_delay(&volume.reactor.io, fd)
    follow.volume = volume
    follow.fd = fd
    follow.epoch = epoch
    follow.start = start
    follow.acked_flags = 0xFFFF            # nothing was told yet
    follow.task.run = run_follow
    follow.task.owner = follow
    follow.timer.fire = on_retry
    follow.timer.owner = follow
    follow.recv_op.done = on_received
    follow.recv_op.owner = follow
    follow.send_op.done = on_ack_sent
    follow.send_op.owner = follow
    follow.base_op.owner = follow
    follow.behind_op.owner = follow
    follow.behind_op.done = on_behind
    volume.follow = follow
    volume.links += 1
    volume.heard_ns = now_boot(volume.reactor)
    receive(follow)
    task_queue(volume.reactor, &follow.task)
    return 0


cdef void follow_drop(Volume *volume, int cause) noexcept nogil:
    cdef Follow *follow = volume.follow
    if follow == NULL:
        return
    volume.follow = NULL
    follow.over = True
    if cause != 0:
        event_up(volume, EVENT_PRIMARY_LOST, follow.epoch, follow.start, cause, follow.base_bytes)
    timer_clear(volume.reactor, &follow.timer)
    volume.reactor.io.shutdown(&volume.reactor.io, follow.fd)
    volume.reactor.io.cancel(&volume.reactor.io, &follow.recv_op)
    volume.reactor.io.cancel(&volume.reactor.io, &follow.send_op)
    reap(follow)


cdef void end(Follow *follow, int cause) noexcept nogil:
    if not follow.over:
        follow_drop(follow.volume, cause)


cdef void reap(Follow *follow) noexcept nogil:
    cdef Volume *volume = follow.volume
    if (
        not follow.over or follow.recv_op.busy or follow.send_op.busy or follow.base_op.busy or follow.base_busy
        or follow.installing > 0 or follow.marking > 0 or follow.behind_op.busy or follow.super_busy or follow.reaching or follow.task.queued or follow.parsing
    ):
        return
    drop_body(follow)
    volume.reactor.io.close(&volume.reactor.io, follow.fd)
    volume.links -= 1
    free(follow.buffer)
    free(follow)


cdef void drop_body(Follow *follow) noexcept nogil:
    cdef uint32_t i
    for i in range(follow.body_pages):
        page_drop(&follow.volume.reactor.pool, follow.body[i])
    follow.body_pages = 0


# ---------------------------------------------------------------- bytes in

cdef void receive(Follow *follow) noexcept nogil:
    follow.have = 0
    follow.used = 0
    follow.volume.reactor.io.recv(
        &follow.volume.reactor.io, &follow.recv_op, follow.fd, follow.buffer, RX_BYTES
    )


cdef void on_received(Op *op, int32_t res) noexcept nogil:
    cdef Follow *follow = <Follow *>op.owner
    if follow.over:
        reap(follow)
        return
    if res <= 0:
        end(follow, END_CLOSED)
        return
    follow.volume.heard_ns = now_boot(follow.volume.reactor)
    follow.heard = True
    if follow.alive_ns != 0:
        follow.alive_ns = follow.volume.heard_ns
    follow.have = <uint32_t>res
    parse(follow)


cdef void on_retry(Timer *timer) noexcept nogil:
    cdef Follow *follow = <Follow *>timer.owner
    if not follow.over:
        parse(follow)


cdef void run_follow(Task *task) noexcept nogil:
    """Something became durable or was applied: acknowledge, and go on if room or a base write was awaited."""
    cdef Follow *follow = <Follow *>task.owner
    if follow.over:
        reap(follow)
        return
    if follow.base_rc < 0:
        # The copy is void, the replica stays `rebuilding`; the primary will begin again.
        end(follow, END_DAMAGED)
        return
    base_look(follow)
    joint_look(follow.volume)
    send_ack(follow)
    if follow.base_over:
        follow.base_over = False
        next_frame(follow)
        parse(follow)
    elif not follow.recv_op.busy and not follow.base_busy and follow.timer.slot != 0:
        timer_clear(follow.volume.reactor, &follow.timer)
        parse(follow)


cdef void parse(Follow *follow) noexcept nogil:
    """Take the buffer apart; a link that ends meanwhile is freed only afterwards."""
    follow.parsing = True
    consume(follow)
    follow.parsing = False
    if follow.over:
        reap(follow)


cdef void consume(Follow *follow) noexcept nogil:
    """Stop where room, a base write or more bytes are awaited."""
    cdef uint32_t take
    cdef int rc
    while not follow.over and not base_pending(follow):
        if not follow.in_body:
            take = min(<uint32_t>SP_SHIP_FRAME_SIZE - follow.frame_have, follow.have - follow.used)
            memcpy(<uint8_t *>&follow.frame + follow.frame_have, follow.buffer + follow.used, take)
            follow.frame_have += take
            follow.used += take
            if follow.frame_have < SP_SHIP_FRAME_SIZE:
                break
            if not frame_valid(follow):
                end(follow, END_PROTOCOL)
                return
            follow.in_body = True
            follow.body_have = 0
        rc = fill_body(follow)
        if rc == 0:
            rc = handle(follow)
        if rc == -EAGAIN:
            timer_set(follow.volume.reactor, &follow.timer, now_boot(follow.volume.reactor) + RETRY_NS)
            return
        if rc == -EINPROGRESS_BODY:
            break
        if rc < 0:
            end(follow, END_DAMAGED if rc == -EBADMSG else END_PROTOCOL)
            return
        if base_pending(follow):
            return
        next_frame(follow)
    if not follow.over and not base_pending(follow) and not follow.recv_op.busy:
        receive(follow)


cdef inline bint base_pending(Follow *follow) noexcept nogil:
    """A base frame is being installed, or was, and the task has not gone on yet."""
    return follow.base_busy or follow.base_over or follow.base_rc < 0


cdef void next_frame(Follow *follow) noexcept nogil:
    drop_body(follow)
    follow.in_body = False
    follow.frame_have = 0


cdef bint frame_valid(Follow *follow) noexcept nogil:
    cdef sp_ship_frame *frame = &follow.frame
    cdef uint32_t check = frame.check
    frame.check = 0
    if (
        frame.magic != SP_SHIP_MAGIC
        or check != sp_crc32c(0, frame, SP_SHIP_FRAME_SIZE)
        or frame.term_epoch != follow.epoch
        or frame.term_start != follow.start
        or frame.body_bytes % BLOCK != 0
    ):
        return False
    if frame.kind == SP_FRAME_BATCH:
        return BLOCK <= frame.body_bytes <= SP_BATCH_BYTES_MAX
    if frame.kind == SP_FRAME_BASE:
        return BLOCK <= frame.body_bytes <= (1 + SP_BASE_PAGES_MAX) * PAGE
    if frame.kind == SP_FRAME_BASE_TABLE:
        return frame.body_bytes == (1 + SP_TABLE_PAGES) * PAGE
    if frame.kind == SP_FRAME_BASE_START or frame.kind == SP_FRAME_BASE_MARK:
        return frame.body_bytes == BLOCK
    return (frame.kind == SP_FRAME_COMMIT or frame.kind == SP_FRAME_BASE_DONE) and frame.body_bytes == 0


cdef int fill_body(Follow *follow) noexcept nogil:
    """Copy what is there into aligned pages. 0 when the body is whole."""
    cdef uint32_t pages = follow.frame.body_bytes // PAGE
    cdef uint32_t take, at
    while follow.body_pages < pages:
        follow.body[follow.body_pages] = page_take(&follow.volume.reactor.pool)
        if follow.body[follow.body_pages] == NULL:
            return -EAGAIN
        follow.body_pages += 1
    while follow.body_have < follow.frame.body_bytes and follow.used < follow.have:
        at = follow.body_have % PAGE
        take = min(<uint32_t>PAGE - at, follow.have - follow.used)
        memcpy(follow.body[follow.body_have // PAGE] + at, follow.buffer + follow.used, take)
        follow.body_have += take
        follow.used += take
    return 0 if follow.body_have == follow.frame.body_bytes else -EINPROGRESS_BODY


cdef int handle(Follow *follow) noexcept nogil:
    cdef Volume *volume = follow.volume
    cdef uint32_t kind = follow.frame.kind
    cdef int rc
    follow.told_lsn = max(follow.told_lsn, follow.frame.commit_lsn)
    if kind == SP_FRAME_BATCH:
        # Heard before the batch is taken: applying what it commits may be what makes room for it.
        commit_hear(volume, follow.frame.commit_lsn)
        rc = batch_receive(volume, follow.body, follow.body_pages)
        if rc < 0:
            return rc
        follow.body_pages = 0
        joint_look(volume)
    elif kind == SP_FRAME_BASE_TABLE:
        return base_table(follow)
    elif kind == SP_FRAME_BASE_START:
        return base_start(follow)
    elif kind == SP_FRAME_BASE:
        return base_install(follow)
    elif kind == SP_FRAME_BASE_MARK:
        return base_mark(follow)
    elif kind == SP_FRAME_BASE_DONE:
        return base_done(follow)
    commit_hear(volume, follow.frame.commit_lsn)
    return 0


cdef int batch_receive(Volume *volume, uint8_t **pages, uint32_t count) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef sp_wal_batch *head = <sp_wal_batch *>pages[0]
    cdef const uint32_t *sums
    cdef const sp_wal_entry *entry
    cdef const TermStart *last = NULL
    cdef MemBatch *batch
    cdef uint64_t size = volume.pages
    cdef uint32_t zeros = 0
    cdef uint32_t resizes = 0
    cdef uint32_t payload, i
    if volume.log.term_count > 0:
        last = &volume.log.terms[volume.log.term_count - 1]
    if not head_valid(volume.key, pages[0], BLOCK):
        return -EBADMSG
    if (
        head.page_count + 1 != count
        or head.first_lsn != volume.log.head_lsn + 1
        or head.parent != volume.log.head_check
        or head.durable_floor >= head.first_lsn
    ):
        return -EPROTO
    if last != NULL and (
        head.term_epoch < last.epoch or (head.term_epoch == last.epoch and head.term_start < last.start)
    ):
        # Recovery would end the log in front of it.
        return -EPROTO
    for i in range(head.entry_count):
        entry = <const sp_wal_entry *>(pages[0] + SP_WAL_BATCH_SIZE + i * SP_WAL_ENTRY_SIZE)
        if entry.kind == SP_ENTRY_WRITE or entry.kind == SP_ENTRY_ZERO:
            if entry.first_page > size or entry.page_count > size - entry.first_page:
                return -EPROTO
            if entry.kind == SP_ENTRY_ZERO:
                zeros += 1
                if entry.page_count == 0 or entry.page_count > SP_ZERO_PAGES_MAX or zeros > SP_BATCH_ZEROS_MAX:
                    return -EPROTO
        elif entry.kind == SP_ENTRY_RESIZE:
            # One that makes it no longer stands in the log of a replica made as long as the volume was then.
            size = max(size, entry.aux // PAGE)
            resizes += 1
            if entry.aux % PAGE != 0 or resizes > RESIZES_MAX:
                return -EPROTO
        elif entry.kind != SP_ENTRY_TERM_START and entry.kind != SP_ENTRY_TABLE:
            return -EPROTO
    # Tables are not pages of the volume.
    payload = head.page_count - SP_TABLE_PAGES * batch_tables(head)
    if (
        not log_room_received(volume, head) or not behind_room(core, volume, payload)
        or not dirty_zero_room(volume, zeros) or not resize_room(volume, resizes)
    ):
        flush_urge(volume)
        return -EAGAIN
    if not resize_files(volume, size):
        return -EAGAIN
    sums = <const uint32_t *>(pages[0] + SP_WAL_BATCH_SIZE + head.entry_count * SP_WAL_ENTRY_SIZE)
    for i in range(head.page_count):
        if crc_page(pages[1 + i]) != sums[i]:
            return -EBADMSG
    batch = batch_take_header(core, volume, pages[0])
    if batch == NULL:
        return -EAGAIN
    batch.page_count = head.page_count
    batch.entry_count = head.entry_count
    for i in range(head.page_count):
        batch.pages[i] = pages[1 + i]
    behind_taken(volume, payload)
    log_take(volume, batch)
    room_take(volume, payload)
    # What the primary of its term knew to be committed is so whoever sends it: a log being adopted can be applied.
    commit_hear(volume, head.commit_lsn)
    return 0


# ---------------------------------------------------------------- acks

cdef void send_ack(Follow *follow) noexcept nogil:
    cdef Volume *volume = follow.volume
    cdef uint32_t flags = 1 if follow.rebuilt else 0
    # None says that nothing is applied for want of it. A pool without any may still hold all that is written over.
    cdef uint64_t headroom = 0 if volume.pool_full else max(volume.headroom, <uint64_t>1)
    cdef uint64_t durable = joint_told(volume)
    if follow.send_op.busy or volume.condemned:
        return
    if (
        follow.acked_lsn == durable
        and follow.acked_applied == volume.applied_lsn
        and follow.acked_flags == flags
        and follow.acked_marks == follow.marks
        # The primary refuses new pages while one replica is short of room: it must hear of the end of that too. One that
        # has none, so that nothing is applied any more, may have no more to acknowledge.
        and (follow.acked_headroom < RESERVE_PAGES) == (headroom < RESERVE_PAGES)
        and (follow.acked_headroom == 0) == (headroom == 0)
    ):
        return
    memset(&follow.ack, 0, sizeof(sp_ship_ack))
    follow.ack.magic = <uint32_t>SP_ACK_MAGIC
    follow.ack.term_epoch = follow.epoch
    follow.ack.term_start = follow.start
    follow.ack.durable_lsn = durable
    follow.ack.applied_lsn = volume.applied_lsn
    follow.ack.headroom_pages = headroom
    follow.ack.flags = flags
    follow.ack.base_marks = follow.marks
    follow.acked_marks = follow.marks
    follow.ack.check = sp_crc32c(0, &follow.ack, SP_SHIP_ACK_SIZE)
    follow.acked_lsn = durable
    follow.acked_applied = volume.applied_lsn
    follow.acked_flags = flags
    follow.acked_headroom = headroom
    follow.iov.iov_base = &follow.ack
    follow.iov.iov_len = SP_SHIP_ACK_SIZE
    follow.msg.msg_iov = &follow.iov
    follow.msg.msg_iovlen = 1
    volume.reactor.io.send(&volume.reactor.io, &follow.send_op, follow.fd, &follow.msg)


cdef void on_ack_sent(Op *op, int32_t res) noexcept nogil:
    cdef Follow *follow = <Follow *>op.owner
    if follow.over:
        reap(follow)
        return
    if res <= 0:
        end(follow, END_CLOSED)
        return
    if <uint32_t>res < follow.iov.iov_len:
        follow.iov.iov_base = <uint8_t *>follow.iov.iov_base + res
        follow.iov.iov_len -= res
        follow.volume.reactor.io.send(&follow.volume.reactor.io, &follow.send_op, follow.fd, &follow.msg)
        return
    send_ack(follow)
