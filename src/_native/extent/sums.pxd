# Sums blocks in memory: fetched through io, pinned while used, written back by the flusher. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.layout cimport sp_sums_block
from sparrow._native.volume cimport Core, Frame, Volume, Waiter

cdef enum:
    FRAME_PAGES = 960

cdef int frames_open(Core *core, uint32_t room) noexcept nogil
cdef void frames_close(Core *core) noexcept nogil
# The frame of a page's block, pinned. When it is not there yet, NULL: the waiter is woken when it may be asked again
# (rc -EBADMSG: the block is damaged or cannot be read, and the control side was told; -ENOMEM: no frame can be freed
# now, ask again later).
cdef Frame *frame_get(Core *core, Volume *volume, uint64_t page, Waiter *waiter) noexcept nogil
cdef void frame_put(Frame *frame) noexcept nogil
# Pages whose state and sum are about to be asked for: have them on their way, where their blocks are in memory.
cdef void frame_fetch(Core *core, Volume *volume, const uint64_t *pages, uint32_t count) noexcept nogil
# The frame of a block whatever its state, or NULL when it is not in memory.
cdef Frame *frame_peek(Core *core, Volume *volume, uint64_t block) noexcept nogil
# The checksum that a block must carry.
cdef uint32_t block_check(Volume *volume, const sp_sums_block *block, uint64_t number) noexcept nogil
cdef bint block_valid(Volume *volume, const sp_sums_block *block, uint64_t number) noexcept nogil
# Forget all blocks of a volume that is being closed or emptied.
cdef void frames_forget(Core *core, Volume *volume) noexcept nogil
# Compute the block's own checksum before it is written.
cdef void frame_seal(Frame *frame) noexcept nogil
cdef uint32_t frame_state(Frame *frame, uint64_t page) noexcept nogil
cdef uint32_t frame_sum(Frame *frame, uint64_t page) noexcept nogil
# Make `data` pages of this block `zero`, from page `first` to before `end`, both of the volume; others stay. Did it?
cdef bint frame_zero(Frame *frame, uint64_t first, uint64_t end) noexcept nogil
cdef void frame_set(Frame *frame, uint64_t page, uint32_t state, uint32_t sum) noexcept nogil
