"""After a crash: blocks of checksums that are half of what they were and half of what they were to be become whole.

Why a block may be believed that was put together here is argued in extent/seals.pyx: the list that was durable before
it was written says what its check would be, the log has what it lacks.

Lists lie in their places in the order in which they were written, so the first place that holds none, or one of a
checkpoint that came to its end, is the end of them. One read is all that this costs after a clean end.

What stays damaged (rot, or a log that ends too early) is for whoever asks for it first to find. A block that cannot be
read may be written by a repair, and is left alone here. So is one that cannot be written back: it is damaged as any
other, all other pages are served, and another opening before it is mended tries again.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.extent.dirty cimport dirty_find
from sparrow._native.extent.seals cimport list_valid
from sparrow._native.extent.sums cimport FRAME_PAGES, block_check, block_valid
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_PAGE_DATA, SP_PAGE_ZERO, SP_STATE_REBUILDING, SP_SUMS_LIST_PLACES, SP_SUMS_LISTS_OFFSET, sp_sums_block,
    sp_sums_list,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.sys cimport ENOMEM, calloc, free, malloc
from sparrow._native.volume cimport Core, Torn, TornIo, Version, Volume, Waiter

cdef enum:
    IO_SLOTS = 8


cdef void torn_mend(Volume *volume, Waiter *waiter) noexcept nogil:
    cdef Torn *torn
    cdef uint8_t *pages
    cdef uint32_t i
    if volume.super.now.state == SP_STATE_REBUILDING:
        # Nothing was listed for it, and it is no copy yet. One that was set aside may become the last there is.
        waiter.wake(waiter, 0)
        return
    torn = <Torn *>calloc(1, sizeof(Torn))
    volume.torn = torn
    if torn == NULL:
        waiter.wake(waiter, -ENOMEM)
        return
    torn.done = waiter
    torn.memory = <uint8_t *>malloc((IO_SLOTS + 2) * PAGE)
    if torn.memory == NULL:
        finish(volume, -ENOMEM)
        return
    pages = <uint8_t *>((<uint64_t>torn.memory + PAGE - 1) & ~<uint64_t>(PAGE - 1))
    torn.list = <sp_sums_list *>pages
    for i in range(IO_SLOTS):
        torn.io[i].volume = volume
        torn.io[i].block = <sp_sums_block *>(pages + (i + 1) * PAGE)
    read_list(volume)


cdef void torn_free(Volume *volume) noexcept nogil:
    if volume.torn != NULL:
        free(volume.torn.memory)
        free(volume.torn)
    volume.torn = NULL


cdef void finish(Volume *volume, int rc) noexcept nogil:
    cdef Waiter *waiter = volume.torn.done
    torn_free(volume)
    waiter.wake(waiter, rc)


# ---------------------------------------------------------------- lists

cdef void read_list(Volume *volume) noexcept nogil:
    cdef Torn *torn = volume.torn
    if torn.place == SP_SUMS_LIST_PLACES:
        finish(volume, 0)
        return
    torn.iov.iov_base = torn.list
    torn.iov.iov_len = PAGE
    torn.op.done = on_list
    torn.op.owner = volume
    volume.reactor.io.read(
        &volume.reactor.io, &torn.op, volume.super.fd, &torn.iov, 1, SP_SUMS_LISTS_OFFSET + torn.place * PAGE
    )


cdef void on_list(Op *op, int32_t res) noexcept nogil:
    cdef Volume *volume = <Volume *>op.owner
    cdef Torn *torn = volume.torn
    if res != PAGE or not list_valid(volume, torn.list, torn.place) or not counts(volume, torn.list):
        finish(volume, 0)
        return
    torn.row = 0
    next_rows(volume)


cdef bint counts(const Volume *volume, const sp_sums_list *list) noexcept nogil:
    """Is its checkpoint under way still, and does the log have all of it?"""
    return list.applied_lsn == volume.super.now.applied_lsn and list.target_lsn <= volume.log.head_lsn


# ---------------------------------------------------------------- blocks

cdef void next_rows(Volume *volume) noexcept nogil:
    """Keep up to eight blocks under way, then go on with the next list."""
    cdef Torn *torn = volume.torn
    cdef uint64_t blocks = (volume.file_pages + FRAME_PAGES - 1) // FRAME_PAGES
    cdef TornIo *io
    cdef uint32_t i
    for i in range(IO_SLOTS):
        io = &torn.io[i]
        while not io.op.busy and torn.row < torn.list.count:
            io.number = torn.list.blocks[torn.row]
            io.check = torn.list.checks[torn.row]
            torn.row += 1
            if io.number >= blocks:
                continue
            io.iov.iov_base = io.block
            io.iov.iov_len = PAGE
            io.op.done = on_block
            io.op.owner = io
            torn.inflight += 1
            volume.reactor.io.read(&volume.reactor.io, &io.op, volume.sums_fd, &io.iov, 1, io.number * PAGE)
    if torn.inflight > 0:
        return
    torn.place += 1
    read_list(volume)


cdef void on_block(Op *op, int32_t res) noexcept nogil:
    cdef TornIo *io = <TornIo *>op.owner
    cdef Volume *volume = io.volume
    if res == PAGE and not block_valid(volume, io.block, io.number):
        complete(volume, io)
        if io.block.check == io.check:
            io.op.done = on_completed
            volume.reactor.io.write(
                &volume.reactor.io, &io.op, volume.sums_fd, &io.iov, 1, io.number * PAGE, False
            )
            return
    volume.torn.inflight -= 1
    next_rows(volume)


cdef void complete(Volume *volume, TornIo *io) noexcept nogil:
    """The round's patch (extent/seals.pyx), and the check of what comes of it."""
    cdef Core *core = <Core *>volume.reactor.core
    cdef sp_sums_block *block = io.block
    cdef Version *version
    cdef uint32_t i, shift, state
    for i in range(FRAME_PAGES):
        version = dirty_find(core, volume, io.number * FRAME_PAGES + i, volume.torn.list.target_lsn)
        if version == NULL:
            continue
        shift = 2 * (i % 4)
        state = (block.states[i // 4] >> shift) & 3
        if version == &core.dirty.zeros:
            # A hole stays one, as in the round; the sum is not touched.
            if state >= SP_PAGE_DATA:
                block.states[i // 4] = <uint8_t>((block.states[i // 4] & ~(3 << shift)) | (SP_PAGE_ZERO << shift))
            continue
        state = SP_PAGE_ZERO if version.data == NULL else SP_PAGE_DATA
        block.states[i // 4] = <uint8_t>((block.states[i // 4] & ~(3 << shift)) | (state << shift))
        block.sums[i] = version.sum
    block.check = block_check(volume, block, io.number)


cdef void on_completed(Op *op, int32_t res) noexcept nogil:
    cdef TornIo *io = <TornIo *>op.owner
    cdef Volume *volume = io.volume
    volume.torn.inflight -= 1
    if res == PAGE:
        volume.completed += 1
    next_rows(volume)
