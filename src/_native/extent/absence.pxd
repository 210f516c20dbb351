# Absence maps: what changed since a member was last in sync, one bit per 64 KiB. Thread: reactor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.volume cimport Absence, Volume, Waiter

# At open: the file, and the bits of the rows in use, one after the other as the control side read and checked them.
cdef int absence_init(Volume *volume, int fd, const uint8_t *bits, uint64_t length) noexcept nogil
cdef void absence_free(Volume *volume) noexcept nogil
# These members (16 bytes each) are outside the in-sync set: begin a map for who is new, drop those of all others.
# 1: one was dropped, which the superblock is to forget durably; -ENOMEM: no memory for a map, that member will be
# rebuilt from everything.
cdef int absence_set(Volume *volume, const uint8_t *uuids, uint32_t count) noexcept nogil
# The files are so long now: before any page behind the old end is logged.
cdef void absence_grow(Volume *volume, uint64_t pages) noexcept nogil
# The map of a member, or NULL.
cdef Absence *absence_of(Volume *volume, const uint8_t *uuid) noexcept nogil
# Whatever changes a page of the extents says so before the checkpoint that covers it. The flusher does it for the
# pages of its rounds.
cdef void absence_mark(Volume *volume, uint64_t page) noexcept nogil
cdef void absence_mark_round(Volume *volume) noexcept nogil
# Is any block newer than the disk?
cdef bint absence_stale(Volume *volume) noexcept nogil
# Make all blocks durable; the waiter is woken with 0 or -errno.
cdef void absence_write(Volume *volume, Waiter *waiter) noexcept nogil
# Enter in the superblock's image in memory the maps whose blocks are durable.
cdef void absence_list(Volume *volume) noexcept nogil
# A copy of the bits of a member's map, with those of everything that is logged and not yet applied added. The caller
# frees it. NULL: there is no map that reaches back to `from_lsn`, or no memory.
cdef uint8_t *absence_changed(Volume *volume, const uint8_t *uuid, uint64_t from_lsn) noexcept nogil

cdef inline bint granule_set(const uint8_t *bits, uint64_t page) noexcept nogil:
    return (bits[page // 16 // 8] >> (page // 16 % 8)) & 1
