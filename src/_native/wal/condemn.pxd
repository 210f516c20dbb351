from sparrow._native.volume cimport Volume

# A write or flush failed: nothing more is written to this replica. file: 1 wal, 2 extents, 3 sums, 4 superblock,
# 5 absences. The last in-sync copy is frozen instead when its extents, sums or absence maps failed.
cdef void condemn(Volume *volume, int file, int rc) noexcept nogil
