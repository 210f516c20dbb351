# Giving the place of zeroed pages back to the pool. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Volume

cdef enum:
    PUNCH_PAGES = 256          # a piece: 1 MiB

# Pieces that hold some of these pages may be free once the entry with this LSN is applied.
cdef void punch_hint(Volume *volume, uint64_t first_page, uint64_t count, uint64_t lsn) noexcept nogil
# The log below this LSN holds no zero entry whose place is still to be given back.
cdef uint64_t punch_floor(const Volume *volume) noexcept nogil
cdef bint punch_wanted(const Volume *volume) noexcept nogil
# Do a part of it; the flusher stands still until `done` is called.
cdef void punch_some(Volume *volume) noexcept nogil
cdef void punch_forget(Volume *volume) noexcept nogil
cdef void punch_init(Volume *volume, void (*done)(Volume *volume) noexcept nogil) noexcept nogil
