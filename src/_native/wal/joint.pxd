# Batches that a follower far behind writes together. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.layout cimport sp_superblock
from sparrow._native.volume cimport MemBatch, Volume
from sparrow._native.wal.durable cimport batch_done

# At open.
cdef void joint_init(Volume *volume) noexcept nogil
# Up to which entry a floor in a header proves that this disk had them.
cdef uint64_t joint_proves(const sp_superblock *now, uint64_t floor) noexcept nogil
# A batch or a commit LSN came, or something became durable: see whether the superblock has to say something else.
cdef void joint_look(Volume *volume) noexcept nogil
# Whoever writes the superblock next takes along that floors count again, when they do.
cdef void joint_settle(Volume *volume) noexcept nogil
# The same at the start of a term: does a copy on the disk still name the range? Then the superblock is to be written.
cdef bint joint_owed(Volume *volume) noexcept nogil
# The log is let go of.
cdef void joint_forget(Volume *volume) noexcept nogil
# May this received batch be written although its floor is not reached?
cdef bint joint_takes(const Volume *volume, const MemBatch *batch) noexcept nogil
# Write what waits in one piece, from the first on, which `joint_takes`; False: not now, a write that ends comes back to
# it.
cdef bint joint_write(Volume *volume, batch_done done) noexcept nogil
# The durable LSN that may be acknowledged on the link.
cdef uint64_t joint_told(const Volume *volume) noexcept nogil
