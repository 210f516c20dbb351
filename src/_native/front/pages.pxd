# Pages for the data of a command, the same for every protocol: how many, whether it may have them now, and their bytes.
# Thread: reactor.
#
# Without pages a command is not accepted and the socket not read, so TCP tells the other end to wait. Two connections
# cannot hold each other up that way: one that waits itself while commands it has accepted wait for their data, which
# may lie behind in the socket, does so for 50 ms and then answers that it is busy, which initiators try again. And one
# slow reader cannot take the whole pool: what was read for a connection and is not sent yet gets half of it.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.pool cimport PAGE, RUN_MIN, Pool, page_drop, page_spare, page_take, page_take_run, pages_rise
from sparrow._native.sys cimport memcpy

cdef enum:
    BUSY_AFTER_NS = 50000000


cdef inline uint32_t pages_of(uint64_t first, uint64_t length) noexcept nogil:
    """Pages that so many bytes from `first` on touch."""
    return 0 if length == 0 else <uint32_t>((first + length - 1) // PAGE - first // PAGE + 1)


cdef inline bint pages_spare(const Pool *pool, uint32_t count, uint32_t unsent) noexcept nogil:
    """May a connection have so many now? `unsent`: of READs that it holds already, when it is for one more."""
    return page_spare(pool, count) and (unsent == 0 or unsent + count <= (pool.working - pool.reserve) // 2)


cdef inline bint pages_awaited(
    const Pool *pool, uint32_t count, uint32_t unsent, uint64_t waited_ns, bint *busy
) noexcept nogil:
    """Does a command wait for its pages? `busy` is set when waiting would not bring them. `waited_ns`: how long the
    connection has waited while accepted commands wait for their data; 0 when none does."""
    busy[0] = False
    if count == 0 or pages_spare(pool, count, unsent):
        return False
    busy[0] = count + pool.reserve >= pool.working or waited_ns >= BUSY_AFTER_NS
    return not busy[0]


cdef inline void pages_take(Pool *pool, uint8_t **pages, uint32_t count) noexcept nogil:
    """So many, which the pool must have; many at once are neighbours as far as possible."""
    cdef uint32_t i
    for i in range(count):
        pages[i] = page_take(pool) if count < RUN_MIN else page_take_run(pool)
    pages_rise(pages, count)


cdef inline void pages_drop(Pool *pool, uint8_t **pages, uint32_t count) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        page_drop(pool, pages[i])


cdef inline void pages_put(uint8_t **pages, uint32_t at, const uint8_t *data, uint32_t length) noexcept nogil:
    """Copy into them, from byte `at` on."""
    cdef uint32_t part
    while length != 0:
        part = min(length, PAGE - at % PAGE)
        memcpy(pages[at // PAGE] + at % PAGE, data, part)
        at += part
        data += part
        length -= part


cdef inline void pages_get(uint8_t **pages, uint32_t at, uint8_t *data, uint32_t length) noexcept nogil:
    """Copy out of them, from byte `at` on."""
    cdef uint32_t part
    while length != 0:
        part = min(length, PAGE - at % PAGE)
        memcpy(data, pages[at // PAGE] + at % PAGE, part)
        at += part
        data += part
        length -= part
