# Batches that are only on the disk, read ahead for a peer that is behind. Thread: reactor.
from sparrow._native.volume cimport LogRead, Ship

# Keep reads of the next batches under way, from the link's cursor on, as long as those are not in memory.
cdef void log_read_ahead(Ship *ship) noexcept nogil
# Who has the batch at the cursor, when it is here: in its pages from `at` on, the caller's to take.
cdef LogRead *log_read_ready(Ship *ship) noexcept nogil
# The pages of that batch were taken.
cdef void log_read_taken(LogRead *read) noexcept nogil
# The link is over: whether the kernel still holds anything of it; and then what was read is given back.
cdef bint log_read_busy(const Ship *ship) noexcept nogil
cdef void log_read_end(Ship *ship) noexcept nogil
