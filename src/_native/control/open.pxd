# Opening and closing a replica's files in the core. Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# Payload: the superblock that counts, what the files can hold (u64 bytes), the descriptor of the absence maps (u64) and
# the bits of those in use. a, b, c, d: descriptors of superblock, wal, extents, sums. flags 1: suspect.
cdef void do_open(Core *core, const Mail *mail) noexcept nogil
cdef void do_close(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# Free every volume and link of a core that will never have another turn, as its process would by dying: nothing is
# written, nobody is told. Of commands and reads under way the memory is lost.
cdef void abandon(Core *core) noexcept nogil
