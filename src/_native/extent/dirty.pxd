# Versions of pages that are logged and not yet in the extents. Two views: the committed view is the newest version at
# or below the commit LSN, the log view the newest of all. Thread: reactor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.volume cimport Core, Version, Volume

cdef int dirty_open(Core *core, uint32_t room) noexcept nogil
cdef void dirty_close(Core *core) noexcept nogil
# Room for so many more versions of this volume?
cdef bint dirty_room(Core *core, Volume *volume, uint32_t count) noexcept nogil
# Add a version; takes over the reference of `data` (NULL: zeros). LSNs of a volume never go back.
cdef void dirty_add(Core *core, Volume *volume, uint64_t page, uint64_t lsn, uint8_t *data, uint32_t sum) noexcept nogil
# Room for so many more zero entries?
cdef bint dirty_zero_room(Volume *volume, uint32_t count) noexcept nogil
# Add a zero entry: these pages are zeros from its LSN on.
cdef void dirty_zero(Volume *volume, uint64_t page, uint64_t count, uint64_t lsn) noexcept nogil
# LSN of the newest zero entry of this page above one LSN and at or below the other, 0 when there is none.
cdef uint64_t dirty_zeroed(const Volume *volume, uint64_t page, uint64_t above, uint64_t lsn) noexcept nogil
# Newest version at or below `lsn`, or NULL: then the extents have it. One made of a zero entry is good until the next
# call.
cdef Version *dirty_find(Core *core, Volume *volume, uint64_t page, uint64_t lsn) noexcept nogil
# Forget versions up to an LSN (they are in the extents now), or above one (they were cut off the log).
cdef void dirty_drop_to(Core *core, Volume *volume, uint64_t lsn) noexcept nogil
cdef void dirty_cut_above(Core *core, Volume *volume, uint64_t lsn) noexcept nogil
