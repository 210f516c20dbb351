"""A fixed pool of sums blocks: look up, load, pin, evict clean ones by a clock hand."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.ahead cimport sp_prefetch
from sparrow._native.events cimport EVENT_SUMS_DAMAGED, event_up
from sparrow._native.extent.cache cimport cache_drop
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_SUMS_BLOCK_SIZE, sp_sums_block
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.sys cimport EBADMSG, ENOMEM, calloc, free, malloc, memset, sp_assert, sp_crc32c
from sparrow._native.volume cimport (
    FRAME_BAD, FRAME_FREE, FRAME_LOADING, FRAME_VALID, NONE, Core, Frame, Volume, Waiter,
)
from sparrow._native.waiters cimport wake_all, waiter_add


cdef int frames_open(Core *core, uint32_t room) noexcept nogil:
    cdef uint32_t buckets = 256
    while buckets < room:
        buckets *= 2
    core.frames.frames = <Frame *>calloc(room, sizeof(Frame))
    core.frames.buckets = <uint32_t *>malloc(buckets * sizeof(uint32_t))
    if core.frames.frames == NULL or core.frames.buckets == NULL:
        frames_close(core)
        return -ENOMEM
    memset(core.frames.buckets, 0xFF, buckets * sizeof(uint32_t))
    core.frames.mask = buckets - 1
    core.frames.room = room
    return 0


cdef void frames_close(Core *core) noexcept nogil:
    free(core.frames.frames)
    free(core.frames.buckets)
    memset(&core.frames, 0, sizeof(core.frames))


cdef inline uint32_t bucket_of(Core *core, Volume *volume, uint64_t block) noexcept nogil:
    cdef uint64_t h = (block ^ (<uint64_t>volume.index << 40)) * <uint64_t>0x9E3779B97F4A7C15
    return <uint32_t>(h >> 33) & core.frames.mask


cdef uint32_t block_check(Volume *volume, const sp_sums_block *block, uint64_t number) noexcept nogil:
    cdef uint64_t seed[2]
    seed[0] = volume.key
    seed[1] = number
    return sp_crc32c(sp_crc32c(0, seed, 16), <const uint8_t *>block + 4, SP_SUMS_BLOCK_SIZE - 4)


cdef bint block_valid(Volume *volume, const sp_sums_block *block, uint64_t number) noexcept nogil:
    return block.block == number and block.format == 1 and block.check == block_check(volume, block, number)


cdef Frame *frame_peek(Core *core, Volume *volume, uint64_t block) noexcept nogil:
    cdef uint32_t at = core.frames.buckets[bucket_of(core, volume, block)]
    while at != NONE:
        if core.frames.frames[at].volume == volume and core.frames.frames[at].block == block:
            return &core.frames.frames[at]
        at = core.frames.frames[at].next
    return NULL


cdef void unhash(Core *core, uint32_t at) noexcept nogil:
    cdef Frame *frame = &core.frames.frames[at]
    cdef uint32_t *link = &core.frames.buckets[bucket_of(core, frame.volume, frame.block)]
    while link[0] != at:
        sp_assert(link[0] != NONE, b"a frame is in its bucket")
        link = &core.frames.frames[link[0]].next
    link[0] = frame.next


cdef void on_loaded(Op *op, int32_t res) noexcept nogil:
    cdef Frame *frame = <Frame *>op.owner
    cdef int rc = 0
    if res == PAGE and block_valid(frame.volume, <sp_sums_block *>frame.data, frame.block):
        frame.state = FRAME_VALID
    else:
        # A sector that cannot be read is damage like any other: writing the block anew may mend it.
        frame.state = FRAME_BAD
        rc = -EBADMSG
        event_up(frame.volume, EVENT_SUMS_DAMAGED, frame.block, <uint64_t>-res if res < 0 else 0, 0, 0)
    frame.pins -= 1
    wake_all(&frame.waiters, rc)


cdef uint32_t claim(Core *core) noexcept nogil:
    """A frame that may be used for another block, or NONE."""
    cdef uint32_t looked = 0
    cdef Frame *frame
    while looked < 2 * core.frames.room:
        core.frames.hand = (core.frames.hand + 1) % core.frames.room
        frame = &core.frames.frames[core.frames.hand]
        looked += 1
        if frame.state == FRAME_FREE:
            return core.frames.hand
        if frame.pins == 0 and not frame.dirty and frame.state != FRAME_LOADING:
            # One round of grace for what was used since the hand came by last.
            if frame.used != 0 and looked <= core.frames.room:
                frame.used = 0
                continue
            unhash(core, core.frames.hand)
            frame.state = FRAME_FREE
            return core.frames.hand
    return NONE


cdef Frame *frame_get(Core *core, Volume *volume, uint64_t page, Waiter *waiter) noexcept nogil:
    cdef uint64_t number = page // FRAME_PAGES
    cdef uint32_t bucket = bucket_of(core, volume, number)
    cdef uint32_t at = core.frames.buckets[bucket]
    cdef Frame *frame
    while at != NONE:
        frame = &core.frames.frames[at]
        if frame.volume == volume and frame.block == number:
            if frame.state == FRAME_VALID:
                frame.pins += 1
                frame.used = 1
                return frame
            if frame.state == FRAME_BAD:
                waiter.wake(waiter, -EBADMSG)
                return NULL
            waiter_add(&frame.waiters, waiter)
            return NULL
        at = frame.next
    at = claim(core)
    if at == NONE:
        waiter.wake(waiter, -ENOMEM)
        return NULL
    frame = &core.frames.frames[at]
    if frame.data == NULL:
        frame.data = page_take(&core.reactor.pool)
        if frame.data == NULL:
            waiter.wake(waiter, -ENOMEM)
            return NULL
    frame.volume = volume
    frame.block = number
    frame.state = FRAME_LOADING
    frame.pins = 1
    frame.dirty = False
    frame.used = 1
    frame.next = core.frames.buckets[bucket]
    core.frames.buckets[bucket] = at
    frame.waiters = NULL
    waiter_add(&frame.waiters, waiter)
    frame.op.done = on_loaded
    frame.op.owner = frame
    frame.iov.iov_base = frame.data
    frame.iov.iov_len = PAGE
    core.reactor.io.read(&core.reactor.io, &frame.op, volume.sums_fd, &frame.iov, 1, number * PAGE)
    return NULL


cdef void frame_put(Frame *frame) noexcept nogil:
    sp_assert(frame.pins > 0, b"a frame is put back that nobody has")
    frame.pins -= 1


cdef void frame_fetch(Core *core, Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil:
    cdef sp_sums_block *block
    cdef Frame *frame
    cdef uint32_t i
    for i in range(count):
        frame = frame_peek(core, volume, pages[i] // FRAME_PAGES)
        if frame != NULL and frame.data != NULL:
            block = <sp_sums_block *>frame.data
            sp_prefetch(&block.states[pages[i] % FRAME_PAGES // 4])
            sp_prefetch(&block.sums[pages[i] % FRAME_PAGES])


cdef void frames_forget(Core *core, Volume *volume) noexcept nogil:
    cdef uint32_t at
    cdef Frame *frame
    for at in range(core.frames.room):
        frame = &core.frames.frames[at]
        if frame.state != FRAME_FREE and frame.volume == volume:
            sp_assert(frame.pins == 0 and not frame.op.busy, b"frames are forgotten when nobody uses them")
            unhash(core, at)
            page_drop(&core.reactor.pool, frame.data)
            frame.data = NULL
            frame.state = FRAME_FREE
            frame.dirty = False


cdef void frame_seal(Frame *frame) noexcept nogil:
    cdef sp_sums_block *block = <sp_sums_block *>frame.data
    block.check = block_check(frame.volume, block, frame.block)


cdef uint32_t frame_state(Frame *frame, uint64_t page) noexcept nogil:
    cdef uint32_t i = <uint32_t>(page % FRAME_PAGES)
    return ((<sp_sums_block *>frame.data).states[i // 4] >> (2 * (i % 4))) & 3


cdef uint32_t frame_sum(Frame *frame, uint64_t page) noexcept nogil:
    return (<sp_sums_block *>frame.data).sums[page % FRAME_PAGES]


cdef bint frame_zero(Frame *frame, uint64_t first, uint64_t end) noexcept nogil:
    """Two bits per page: 2 is data, 1 zero, 0 hole; a hole stays one, for it never had a place."""
    cdef uint8_t *states = (<sp_sums_block *>frame.data).states
    cdef uint64_t base = frame.block * FRAME_PAGES
    cdef uint32_t at = <uint32_t>(max(first, base) - base)
    cdef uint32_t stop = <uint32_t>(min(end, base + FRAME_PAGES) - base)
    cdef bint changed = False
    cdef uint8_t byte, mask
    cdef uint32_t i
    while at < stop:
        # The pages of one byte that are meant: all four inside the range.
        mask = 0
        for i in range(at % 4, min(<uint32_t>4, at % 4 + stop - at)):
            mask |= <uint8_t>(3 << 2 * i)
        byte = states[at // 4]
        if byte & mask & 0xAA:
            changed = True
            states[at // 4] = <uint8_t>((byte & ~mask) | (byte & mask & 0x55) | ((byte & mask & 0xAA) >> 1))
        at += 4 - at % 4
    return changed


cdef void frame_set(Frame *frame, uint64_t page, uint32_t state, uint32_t sum) noexcept nogil:
    cdef sp_sums_block *block = <sp_sums_block *>frame.data
    cdef uint32_t i = <uint32_t>(page % FRAME_PAGES)
    cdef uint32_t shift = 2 * (i % 4)
    cache_drop(<Core *>frame.volume.reactor.core, frame.volume, page)
    block.states[i // 4] = <uint8_t>((block.states[i // 4] & ~(3 << shift)) | (state << shift))
    block.sums[i] = sum
