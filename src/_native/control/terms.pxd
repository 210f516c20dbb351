# Promises, terms and the log as the opening needs them (docs/ARCHITECTURE.md, "Opening"). Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# a epoch, b start, payload: the primary's replica id (16 bytes). Answers -ESTALE with a = promised epoch, -EPROTO when
# the epoch is promised to another primary; else a = nanoseconds a promise still runs, payload: summary.
cdef void do_fence(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a epoch, payload: own replica id. Answers a = start.
cdef void do_begin_term(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a epoch, b start of the primary, c its last LSN; payload: rows (epoch, start, first LSN, last LSN) of its log.
# Answers a = 1 joined, 2 no common point, 3 quarantined; b = LSN, c = check there.
cdef void do_join(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a from LSN, b bytes at most.
cdef void do_read_log(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# Payload: whole batches. Answers a = durable LSN.
cdef void do_append_log(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# Answers a = LSN of the term start when it is committed.
cdef void do_commit_inherited(Core *core, Volume *volume, const Mail *mail) noexcept nogil
