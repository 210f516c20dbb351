# Frames of the base lane on their way into the extents. Thread: reactor.
from libc.stdint cimport int32_t

from sparrow._native.io.ops cimport Op
from sparrow._native.volume cimport Follow

cdef enum:
    INSTALLS = 8               # frames under way; installs of Follow

# As base_table in base_receive.pxd.
cdef int base_install(Follow *follow) noexcept nogil
# The kernel has begun to write back what it was told to.
cdef void on_behind(Op *op, int32_t res) noexcept nogil
