from sparrow._native.io.ops cimport Io
from sparrow._native.uring cimport io_uring

# Fill the table for a ring made by the liburing module; the reactor's thread must call uring_enable first.
cdef void uring_fill(Io *io, io_uring *ring) noexcept nogil
cdef int uring_enable(Io *io) noexcept nogil
