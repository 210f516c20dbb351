# Single steps of a scrub: what the disk holds, read past every cache. Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# a block, b descriptor of the sums file. Answers a = 1 whole, 2 rewritten from memory, 3 damaged (and reported);
# b = pages of it that are lost.
cdef void do_check_sums(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a first page, b count (1 to 256), c descriptor of the extents. Answers a = 1 when all are as their sums say, else 0
# and b = a page that is not (and was reported).
cdef void do_check_pages(Core *core, Volume *volume, const Mail *mail) noexcept nogil
