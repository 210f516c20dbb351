# The size of a volume as its log has it. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Volume

# The superblock's size, and what the files can hold.
cdef void resize_init(Volume *volume, uint64_t pages, uint64_t file_pages) noexcept nogil
cdef bint resize_room(const Volume *volume, uint64_t count) noexcept nogil
# An entry that makes the volume as long was logged; one that would not make it longer changes nothing.
cdef void resize_logged(Volume *volume, uint64_t lsn, uint64_t pages) noexcept nogil
# Can the files hold so many pages? If not the control side is asked to make them longer.
cdef bint resize_files(Volume *volume, uint64_t pages) noexcept nogil
cdef void resize_grown(Volume *volume, uint64_t file_pages) noexcept nogil
# Clients see what is committed; gives whether that is more than before.
cdef bint resize_serve(Volume *volume) noexcept nogil
cdef void resize_tell(Volume *volume) noexcept nogil
# The checkpoint covers the LSN: first in the superblock being written, then for good.
cdef void resize_checkpoint(Volume *volume, uint64_t lsn) noexcept nogil
cdef void resize_applied(Volume *volume, uint64_t lsn) noexcept nogil
cdef void resize_cut(Volume *volume, uint64_t lsn) noexcept nogil
