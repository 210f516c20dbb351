# The table of reservations, read and replaced by the control side. Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# Answer: a LSN, payload the table; 0 and nothing when the volume never had one. -ESTALE: this replica does not serve;
# -EAGAIN: it does not now.
cdef void do_reservations(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a LSN of the table it was made from, b key of the session and c tag of the command that asked for it, 0 for none; payload
# the new one. Answer: a its LSN when it has committed, 0 when another table is the newest by now. -ESTALE, -EAGAIN as
# above; -EAGAIN also for want of room, or with too many changes under way; -ECANCELED: the command was taken back, or its
# session is gone; -EINVAL: that is no table. In none of these it was logged. -EBUSY: it was, and nobody here knows what
# becomes of it.
cdef void do_log_reservations(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# The slot in use is damaged on the disk: the table goes to the other one, from memory, and the superblock names that.
cdef void do_mend_table(Core *core, Volume *volume, const Mail *mail) noexcept nogil
