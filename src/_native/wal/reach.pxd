# Up to which entry the pages of a replica may reach. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Volume

# Is it durable in both superblock copies that pages may hold what entries up to this LSN say?
cdef bint reach_covers(const Volume *volume, uint64_t lsn) noexcept nogil
# In memory; durable with the next update of the superblock. `lsn` is committed in the history of that term.
cdef void reach_note(Volume *volume, uint64_t epoch, uint64_t start, uint64_t lsn) noexcept nogil
# The same, of an entry of the own log.
cdef void reach_note_own(Volume *volume, uint64_t lsn) noexcept nogil
# Nothing of what the pages hold is counted on any more; durable with the next update likewise.
cdef void reach_forget(Volume *volume) noexcept nogil
