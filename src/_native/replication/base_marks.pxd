# Durable marks of the base lane. Thread: reactor.
from sparrow._native.volume cimport Follow

# As base_table in base_receive.pxd.
cdef int base_mark(Follow *follow) noexcept nogil
# A frame is dealt with: marks may have waited for it.
cdef void marks_go_on(Follow *follow) noexcept nogil
