# What the host is told about a request that failed. Thread: reactor.
from libc.stdint cimport uint32_t

from sparrow._native.volume cimport Volume

# SCT << 8 | SC, and DNR, for -errno of a request.
cdef uint32_t status_of(const Volume *volume, uint32_t opcode, int rc) noexcept nogil
# Why this replica does not serve: another one does, or nobody at the moment.
cdef uint32_t path_status(const Volume *volume) noexcept nogil
