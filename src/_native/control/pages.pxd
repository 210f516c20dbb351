# Single pages and ranges through the committed view, for verification and repair. Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# a at LSN, b first page, c count (1 to 256). Answers a = 1 ready, 2 behind, 3 passed, 4 damaged; b = commit LSN,
# c = applied LSN; payload: u32 per page when ready, u64 page number when damaged.
cdef void do_digests(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a page, b at least LSN. Answers a = as-of LSN, payload: the page. -EAGAIN: not that far yet.
cdef void do_read_page(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a page, b as-of LSN, payload: the page or nothing. Answers a = 1 installed, 0 not needed. -EBADMSG: it is not what the
# own sum says; -EAGAIN: the own sum is lost too, and an answer as of this LSN cannot stand in for it. Reads wait on
# then.
cdef void do_repair(Core *core, Volume *volume, const Mail *mail) noexcept nogil
