# A replica is made ready for a rebuild: what it may keep, and what goes. Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# What a rebuild may leave as it is; the control side knows the numbers.
cdef enum Keep:
    KEEP_ALL = 1           # pages below the cursor, and the log: the interrupted session goes on
    KEEP_PAGES = 2         # pages below the cursor; what changed since base_from is copied again
    KEEP_NOTHING = 3

# a, b term; c last and d oldest LSN of the primary's log; payload: from_lsn of the primary's map of this replica
# (all ones: none), the primary's commit LSN, then the primary's terms. Answer: a Keep, b LSN the log ends at, c check
# there; payload: base_cursor, base_from, base_lsn, base_patched, pages of the volume as of that LSN. After KEEP_NOTHING
# the control side empties the files.
cdef void do_prepare(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a, b term. What do_prepare left, and the emptied files, are what the superblock is to say.
cdef void do_prepared(Core *core, Volume *volume, const Mail *mail) noexcept nogil
