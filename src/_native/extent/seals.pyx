"""The blocks of checksums of a round: fetched, patched, sealed, listed with what they will be, and written in place.

Safety argument. A disk writes sectors whole and blocks not, so a loss of power may leave a block of which some sectors
are as of before the round and others as of after it. Its check is wrong then, and on the last copy nobody else could
say what its 960 pages are. What makes it whole again is the log: the two versions differ in the pages of entries in (A,
T] alone, where A is the applied LSN of the superblock and T the target of the round, and the log holds all of these
until the superblock says T. Let `f` be the round's patch: the sum and state of the newest version of each page in (A,
T], or the state `zero` where a zero entry is the newest. It looks at each page for itself and doing it twice changes
nothing, so `f` of any mixture of a block `x` and of `f(x)` is `f(x)`. What is not known of a mixture is whether it is
one: rot and a misdirected write look the same. So what `f(x)` will be is written down first, as the check of the
finished block, which is four bytes:

    1. blocks are patched in memory, up to a list of them; nobody sees that before the round's end, for every read asks
       the dirty map first, which has all that the round writes
    2. the list (block numbers and checks, A and T) is durable in the superblock's file
    3. the blocks of the list are written in place
    4. the next list of the round has the next place; after the last place, or in a later round, a place is written again
       only when all blocks that were written in place are flushed (`unsynced`), so whole as long as they are not
       written anew

After a crash the lists whose A is the superblock's are looked at, in order, and a block that one of them names and that
is not whole is patched and compared (extent/torn.pyx). A block that matches is exactly what the round was writing. A
block that does not is damaged, as any other. A list that is torn itself is none: nothing was written under it yet, and
none follows it. A round that was given up has the A of the next one, which flushes its blocks before it writes over its
lists; so does the first round of a process, for the one before may have been killed in the middle of one.

A round may be given up between 1 and 3: the pool is full, and the flusher tries again. Blocks are patched in memory
then and not on the disk, and the patch of the next round changes nothing in those where it only makes zeros of what was
data. They are written all the same, for a frame stays `dirty` until its write has ended well. What a process before
this one patched looks alike when it died of a flush that failed: the page cache has the block and calls it clean, the
disk has the one before. So every block that a zero entry reaches which was in the log when the volume was opened
(`found_lsn`) is written, changed or not. No other can be meant, for a round applies what its log has; of a log that was
found damaged nobody knows how far it went, so every zero entry is, until the volume is opened again. (Other entries
write their blocks always.)

That a list is out of date does no harm, because it makes nothing whole that has not its very check. Nor does it matter
that a round after a crash has another target than the one before it: what `x` is to it was whole and flushed.

A replica that is being rebuilt lists nothing. Its blocks are also written by the base lane, and it is no copy that
anybody counts on before it is clean, when all of them are flushed. One that was set aside (quarantined) lists: what is
committed is applied there as well, and an operator may make it the one copy that a volume goes on from. Should it have
been half rebuilt, the base lane's last blocks may not be flushed: their mixtures are of more than `x` and `f(x)`, have
another check than the list says, and stay damaged, as they would without.

The superblock's file of an older replica may be too short for lists, and the pool too full to make it longer. Then the
round goes on without, as it did before there were lists: the pool's room would else be what lets the log go.

What it costs: one write of 4 KiB, durable, for up to 336 blocks (docs/decisions/0017).
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.extent.cache cimport cache_put
from sparrow._native.extent.sums cimport FRAME_PAGES, frame_get, frame_put, frame_seal, frame_set, frame_zero
from sparrow._native.extent.sync cimport sync_file
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_PAGE_DATA, SP_PAGE_ZERO, SP_STATE_REBUILDING, SP_SUMS_LIST_FORMAT, SP_SUMS_LIST_MAGIC,
    SP_SUMS_LIST_PLACES, SP_SUMS_LIST_ROWS, SP_SUMS_LIST_SIZE, SP_SUMS_LISTS_OFFSET, sp_sums_block, sp_sums_list,
)
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.reactor cimport Task, now_boot, task_queue, timer_set
from sparrow._native.sys cimport EDQUOT, EIO, ENOMEM, ENOSPC, memset, sp_assert, sp_crc32c
from sparrow._native.volume cimport Core, Flush, Frame, Seals, Version, Volume, Waiter

cdef enum:
    IO_SLOTS = 8

cdef enum Stage:
    IDLE = 0
    COLLECT = 1
    FLUSH = 2
    LIST = 3
    WRITE = 4

cdef enum File:
    SUMS = 3
    SUPER = 4

cdef uint64_t NOWHERE = <uint64_t>-1
cdef uint64_t RETRY_NS = 1000000


cdef int seals_init(Volume *volume, seals_done done) noexcept nogil:
    sp_assert(sizeof(volume.seals.frames) == SP_SUMS_LIST_ROWS * sizeof(Frame *), b"a list fits its frames")
    volume.seals.page = page_take(&volume.reactor.pool)
    if volume.seals.page == NULL:
        return -ENOMEM
    volume.seals.done = <void *>done
    volume.seals.task.run = run_collect
    volume.seals.task.owner = volume
    # A process that was killed may have left blocks in the page cache that no disk has.
    volume.seals.unsynced = True
    return 0


cdef void seals_free(Volume *volume) noexcept nogil:
    if volume.seals.page != NULL:
        page_drop(&volume.reactor.pool, volume.seals.page)
    volume.seals.page = NULL


cdef void seals_found(Volume *volume) noexcept nogil:
    volume.seals.found_lsn = NOWHERE if volume.suspect or volume.let_go_to != 0 else volume.log.head_lsn


cdef void seals_synced(Volume *volume) noexcept nogil:
    volume.seals.unsynced = False


cdef void seals_begin(Volume *volume) noexcept nogil:
    cdef Seals *seals = &volume.seals
    volume.flush.at = 0
    volume.flush.block = 0
    seals.place = 0
    seals.count = 0
    seals.written = 0
    seals.failed = 0
    seals.full = False
    seals.listed = volume.super.now.state != SP_STATE_REBUILDING
    seals.stage = COLLECT
    collect(volume)


cdef void seals_go_on(Volume *volume) noexcept nogil:
    if volume.seals.stage == COLLECT:
        collect(volume)


cdef void finish(Volume *volume, int file) noexcept nogil:
    """The end of the round's blocks. Those that were not written stay patched and dirty: the next round writes them.

    There is none when the replica is condemned, as it is for everything but a full pool or a damaged block.
    """
    cdef Seals *seals = &volume.seals
    while seals.written < seals.count:
        unpin(seals.frames[seals.written])
        seals.written += 1
    seals.stage = IDLE
    (<seals_done>seals.done)(volume, file)


# ---------------------------------------------------------------- collecting

cdef uint64_t next_block(Volume *volume) noexcept nogil:
    """The first sums block not below `flush.block` that this round touches, NOWHERE after the last."""
    cdef Flush *flush = &volume.flush
    cdef uint64_t block = NOWHERE
    cdef uint32_t i
    if flush.at < flush.count:
        block = flush.list[flush.at].page // FRAME_PAGES
    for i in range(flush.span_count):
        if (volume.spans[i].end_page - 1) // FRAME_PAGES >= flush.block:
            block = min(block, max(volume.spans[i].first_page // FRAME_PAGES, flush.block))
    return block


cdef bint patch(Volume *volume, Frame *frame) noexcept nogil:
    """Whether the block changed, or may lie on the disk as it was before the change.

    Zero entries first: the versions listed are those that no zero entry of this round hides.
    """
    cdef Core *core = <Core *>volume.reactor.core
    cdef Flush *flush = &volume.flush
    cdef uint64_t first = frame.block * FRAME_PAGES
    cdef bint changed = False
    cdef Version *version
    cdef uint32_t i
    for i in range(flush.span_count):
        if volume.spans[i].first_page < first + FRAME_PAGES and volume.spans[i].end_page > first:
            changed |= frame_zero(frame, volume.spans[i].first_page, volume.spans[i].end_page)
            changed |= volume.spans[i].lsn <= volume.seals.found_lsn
    while flush.at < flush.count and flush.list[flush.at].page // FRAME_PAGES == frame.block:
        version = &core.dirty.versions[flush.list[flush.at].version]
        frame_set(frame, version.page, SP_PAGE_ZERO if version.data == NULL else SP_PAGE_DATA, version.sum)
        if version.data != NULL:
            # The extents hold it, and maybe not the page cache.
            cache_put(core, volume, version.page, version.data, version.sum)
        flush.at += 1
        changed = True
    return changed


cdef bint list_full(const Core *core, uint32_t count) noexcept nogil:
    """Whether a list of so many blocks takes no more: they keep their frames until they are written.

    Reads, repairs and copies need frames too. So lists share half of them; beyond that each has eight at most.
    """
    cdef uint32_t room = core.frames.room
    if core.frames.listed >= room // 2 and count >= max(<uint32_t>1, min(<uint32_t>8, room // 64)):
        return True
    return count >= min(<uint32_t>SP_SUMS_LIST_ROWS, max(<uint32_t>1, room // 8))


cdef void unpin(Frame *frame) noexcept nogil:
    cdef Core *core = <Core *>frame.volume.reactor.core
    sp_assert(core.frames.listed > 0, b"a frame is given back that no list has")
    core.frames.listed -= 1
    frame_put(frame)


cdef void collect(Volume *volume) noexcept nogil:
    """Block by block: fetch, patch the pages of this round, seal. A frame is pinned until it is on disk."""
    cdef Core *core = <Core *>volume.reactor.core
    cdef Flush *flush = &volume.flush
    cdef Seals *seals = &volume.seals
    cdef Frame *frame
    cdef uint64_t block
    if flush.awaiting:
        return
    flush.step.wake = on_frame
    flush.step.owner = volume
    while flush.rc == 0 and not seals.full and not list_full(core, seals.count):
        block = next_block(volume)
        if block == NOWHERE:
            break
        flush.awaiting = True
        frame = frame_get(core, volume, block * FRAME_PAGES, &flush.step)
        if frame == NULL:
            return
        flush.awaiting = False
        sp_assert(not frame.op.busy, b"a sums block is written by one round at a time")
        flush.block = block + 1
        if not patch(volume, frame) and not frame.dirty:
            # Zeros over holes, or over zeros: the disk has it.
            frame_put(frame)
            continue
        frame_seal(frame)
        frame.dirty = True
        seals.frames[seals.count] = frame
        seals.count += 1
        core.frames.listed += 1
    seals.full = False
    seals.written = 0
    if seals.count == 0:
        finish(volume, SUMS)
    elif seals.listed:
        list_blocks(volume)
    else:
        write_blocks(volume)


cdef void on_frame(Waiter *waiter, int rc) noexcept nogil:
    """The block is there now, or could not be read. Goes on at the end of the turn: this may be called from frame_get."""
    cdef Volume *volume = <Volume *>waiter.owner
    volume.flush.awaiting = False
    if rc == -ENOMEM and volume.seals.count == 0:
        timer_set(volume.reactor, &volume.flush.timer, now_boot(volume.reactor) + RETRY_NS)
        return
    if rc == -ENOMEM:
        # Every frame is taken. Those that are taken here are given back before one is waited for.
        volume.seals.full = True
    elif rc < 0:
        volume.flush.rc = rc
    task_queue(volume.reactor, &volume.seals.task)


cdef void run_collect(Task *task) noexcept nogil:
    collect(<Volume *>task.owner)


# ---------------------------------------------------------------- the list

cdef void list_blocks(Volume *volume) noexcept nogil:
    cdef Seals *seals = &volume.seals
    cdef sp_sums_list *list = <sp_sums_list *>seals.page
    cdef uint32_t i
    if seals.unsynced if seals.place == 0 else seals.place == SP_SUMS_LIST_PLACES:
        # What was written under the lists that go now is flushed first.
        seals.stage = FLUSH
        volume.flush.step.wake = on_flushed
        sync_file(&volume.sums_sync, &volume.flush.step)
        return
    memset(list, 0, SP_SUMS_LIST_SIZE)
    list.format = SP_SUMS_LIST_FORMAT
    list.magic = SP_SUMS_LIST_MAGIC
    list.applied_lsn = volume.super.now.applied_lsn
    list.target_lsn = volume.flush.target
    list.place = seals.place
    list.count = seals.count
    for i in range(seals.count):
        list.blocks[i] = seals.frames[i].block
        list.checks[i] = (<sp_sums_block *>seals.frames[i].data).check
    list.check = list_check(volume, list)
    seals.stage = LIST
    seals.iov.iov_base = seals.page
    seals.iov.iov_len = PAGE
    seals.op.done = on_listed
    seals.op.owner = volume
    volume.reactor.io.write(
        &volume.reactor.io, &seals.op, volume.super.fd, &seals.iov, 1, SP_SUMS_LISTS_OFFSET + seals.place * PAGE, True
    )


cdef uint32_t list_check(const Volume *volume, const sp_sums_list *list) noexcept nogil:
    cdef uint64_t seed[2]
    seed[0] = volume.key
    seed[1] = list.place
    return sp_crc32c(sp_crc32c(0, seed, 16), <const char *>list + 4, SP_SUMS_LIST_SIZE - 4)


cdef bint list_valid(const Volume *volume, const sp_sums_list *list, uint32_t place) noexcept nogil:
    return (
        list.magic == SP_SUMS_LIST_MAGIC and list.format == SP_SUMS_LIST_FORMAT and list.place == place
        and list.count <= SP_SUMS_LIST_ROWS and list.check == list_check(volume, list)
    )


cdef void on_flushed(Waiter *waiter, int rc) noexcept nogil:
    cdef Volume *volume = <Volume *>waiter.owner
    if rc < 0:
        # After a failed flush nobody knows what is on the disk: never tried again, full pool or not.
        volume.flush.rc = -EIO
        finish(volume, SUMS)
        return
    volume.seals.unsynced = False
    volume.seals.place = 0
    list_blocks(volume)


cdef void on_listed(Op *op, int32_t res) noexcept nogil:
    cdef Volume *volume = <Volume *>op.owner
    if res == PAGE:
        volume.seals.place += 1
    elif res >= 0 or res == -ENOSPC or res == -EDQUOT:
        # The file of an older replica ends before the lists, and the pool has no room for them.
        volume.seals.listed = False
    else:
        volume.flush.rc = res
        finish(volume, SUPER)
        return
    write_blocks(volume)


# ---------------------------------------------------------------- in place

cdef void write_blocks(Volume *volume) noexcept nogil:
    """Keep up to eight writes of the list's blocks under way, then go on with the next list."""
    cdef Flush *flush = &volume.flush
    cdef Seals *seals = &volume.seals
    cdef Frame *frame
    seals.stage = WRITE
    while seals.written < seals.count and seals.failed == 0 and flush.inflight < IO_SLOTS:
        frame = seals.frames[seals.written]
        seals.written += 1
        seals.unsynced = True
        frame.op.done = on_written
        frame.op.owner = frame
        frame.iov.iov_base = frame.data
        frame.iov.iov_len = PAGE
        flush.inflight += 1
        volume.reactor.io.write(
            &volume.reactor.io, &frame.op, volume.sums_fd, &frame.iov, 1, frame.block * PAGE, False
        )
    if flush.inflight > 0:
        return
    if seals.failed != 0:
        flush.rc = seals.failed
    if flush.rc != 0:
        # Also when a block could not be fetched: what was patched until then is written all the same.
        finish(volume, SUMS)
        return
    seals.count = 0
    seals.stage = COLLECT
    collect(volume)


cdef void on_written(Op *op, int32_t res) noexcept nogil:
    cdef Frame *frame = <Frame *>op.owner
    cdef Volume *volume = frame.volume
    volume.flush.inflight -= 1
    if res != PAGE:
        volume.seals.failed = res if res < 0 else -EIO
    else:
        frame.dirty = False
    unpin(frame)
    write_blocks(volume)
