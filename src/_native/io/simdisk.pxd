# Virtual files. Thread: the room's.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Io
from sparrow._native.io.sim cimport Event, File, Room_

cdef void disk_fill(Io *io) noexcept nogil
cdef void disk_end(Room_ *room, Event *event) noexcept nogil
cdef void disk_writeback(Room_ *room, Event *event) noexcept nogil
# What becomes of an operation in flight, and of the page cache, when power is lost or the process is killed.
cdef void disk_die(Room_ *room, Event *event, uint32_t strike) noexcept nogil
cdef void disk_lose_cache(Room_ *room, uint32_t host, uint32_t strike) noexcept nogil
cdef File *file_of(Room_ *room, int fd) noexcept nogil
cdef void file_put(Room_ *room, File *file, uint64_t offset, const uint8_t *data, uint64_t length, bint durable) noexcept nogil
cdef void file_get(File *file, uint64_t offset, uint8_t *data, uint64_t length, bint platter) noexcept nogil
cdef void file_clear(Room_ *room, File *file) noexcept nogil
