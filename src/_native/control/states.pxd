# What pages are mapped, for GET LBA STATUS and its like. Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# a first page, b pages to look at. Payload: a u64 per run of equal pages, its length times two, plus one for data. The
# runs may end before b pages are covered.
cdef void do_states(Core *core, Volume *volume, const Mail *mail) noexcept nogil
