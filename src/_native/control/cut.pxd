# Where two logs part, and the end of one cut off. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.control.command cimport Command, command_step
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Volume

# A term of the other log, both ends included.
cdef struct Row:
    uint64_t epoch
    uint64_t start
    uint64_t first_lsn
    uint64_t last_lsn

# End of what both logs share, by the newest own term that the other has too; NOWHERE without one.
cdef uint64_t common_point(Volume *volume, const Row *rows, uint64_t count) noexcept nogil
# May pages hold what is not in the other's history (wal/reach.pyx)? `end` is what both logs share.
cdef bint reach_denied(const Volume *volume, uint64_t end, const Row *rows, uint64_t count) noexcept nogil
# Is what a join or a preparation shows of the primary's log older than what is here? Then it is late: nothing changes.
cdef bint shown_before(const Volume *volume, const Mail *mail) noexcept nogil
# Cut everything above `lsn`, the end of a batch in the log; the volume is quiet and not being cut. `step` is called
# when the cut and the superblock are durable, or with -errno.
cdef void cut_log(Command *command, uint64_t lsn, command_step step) noexcept nogil
