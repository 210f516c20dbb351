# The table of reservations, read and replaced by the control side. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# Answer: a LSN, payload the table; 0 and nothing when the volume never had one. -ESTALE: this replica does not serve;
# -EAGAIN: it does not now.
cdef void do_reservations(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a LSN of the table it was made from, b key of the session and c tag of the command that asked for it, 0 for none, d by
# when it is to be logged (boot clock, ns), 0 for no such time; payload the new one. Answer: a its LSN when it has
# committed, 0 when another table is the newest by now. -ESTALE, -EAGAIN as above; -EAGAIN also for want of room, or
# with too many changes under way; -ECANCELED: the command was taken back, its session is gone, or it is too late;
# -EINVAL: that is no table. In none of these it was logged. -EBUSY: it was, and nobody here knows what becomes of it.
cdef void do_log_reservations(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a key of a session and b tag of a command that another node is going to carry out: from here on it is not taken back,
# and its session ends after it, as if its change were logged here. 0, -ECANCELED when it is gone, or -EBUSY when it is
# pinned or logged already: once in its life.
cdef int pin_command(Core *core, uint64_t key, uint32_t tag) noexcept nogil
# Its outcome is known, or nobody waits for it any more. Once for each `pin_command` that succeeded, after the answer.
cdef void unpin_command(Core *core, uint64_t key) noexcept nogil
# The slot in use is damaged on the disk: the table goes to the other one, from memory, and the superblock names that.
cdef void do_mend_table(Core *core, Volume *volume, const Mail *mail) noexcept nogil
