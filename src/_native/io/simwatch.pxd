# What must never happen, looked for after every turn. Thread: the room's.
from sparrow._native.io.sim cimport Host

cdef void watch(Host *host) noexcept nogil
# Something that must never happen did: the first of it is kept.
cdef void report(Host *host, const char *bug) noexcept nogil
