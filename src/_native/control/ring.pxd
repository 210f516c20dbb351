# Batches at rest in the ring: checked one by one, mended from a peer's copy. Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.volume cimport Core, Volume

# a LSN. Checks the retained batch that holds it or is the next one. Answers a = the LSN behind that batch, 0 when there
# is none; b = 1 whole, 2 rewritten from memory, 3 damaged (and reported); c = its bytes.
cdef void do_check_batch(Core *core, Volume *volume, const Mail *mail) noexcept nogil
# a first LSN, payload: the batch (more may follow) or nothing. Answers a = 1 mended, 0 it is not retained any more, 2
# it is let go with the next checkpoint that covers it. -EBADMSG: that is another batch.
cdef void do_mend_batch(Core *core, Volume *volume, const Mail *mail) noexcept nogil
