# Sums blocks for peers and from peers. Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# a block, b at LSN. Answers a = 1 ready, 2 behind, 3 passed; b = commit LSN, c = LSN of the extents; payload when
# ready: the block as of that LSN, sealed. -EAGAIN: this replica answers nobody now; -EBADMSG: its own block is damaged.
cdef void do_read_sums(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a block, b at LSN, payload: the block as peers have it, one image after the other, all as of that LSN; or nothing.
# A damaged block is rebuilt, a whole one gets what it lacks. Answers a = 1 done, 2 that LSN is not committed here yet,
# 3 passed; b = pages of it that are lost. -EAGAIN: the flusher is at work.
cdef void do_mend_sums(Core *core, Volume *volume, const Mail *mail) noexcept nogil
