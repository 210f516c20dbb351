"""Memory that walks over logs read into: kept from one walk to the next, given back to the kernel when no more come.

A node that starts walks hundreds of logs, a few at a time, and reads some 3 MiB of each. In memory that is mapped for
each walk the kernel has to find, clear and map a thousand pages first, which takes more of the processor than all the
rest of a walk. So a window is mapped once and used again.

Safety argument. A window that was used shows batches of another volume's log, or of another place of this one. None of
them can be taken for what lies at the place read now: a walk looks at the first ``Walk.have`` bytes of its window only,
as many as the read into it said that it filled, and each read overwrites them from the first byte
(``wal/recovery.pyx``: ``have`` is 0 from when a read is asked for until it has ended, and no walk goes on meanwhile).
"""

from libc.stdint cimport uint8_t

from sparrow._native.sys cimport MAP_ANONYMOUS, MAP_FAILED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap, munmap
from sparrow._native.volume cimport Core


cdef uint8_t *window_take(Core *core) noexcept nogil:
    cdef uint8_t *window = core.walk_windows
    if window != NULL:
        core.walk_windows = (<uint8_t **>window)[0]
    else:
        window = <uint8_t *>mmap(NULL, WALK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if <void *>window == MAP_FAILED:
            return NULL
    core.walk_taken += 1
    core.walks += 1
    return window


cdef void window_drop(Core *core, uint8_t *window) noexcept nogil:
    core.walks -= 1
    (<uint8_t **>window)[0] = core.walk_windows
    core.walk_windows = window


cdef void windows_rest(Core *core) noexcept nogil:
    if core.walks == 0 and core.walk_taken == core.walk_seen and core.walk_windows != NULL:
        windows_free(core)
    core.walk_seen = core.walk_taken


cdef void windows_free(Core *core) noexcept nogil:
    cdef uint8_t *window
    while core.walk_windows != NULL:
        window = core.walk_windows
        core.walk_windows = (<uint8_t **>window)[0]
        munmap(window, WALK_BYTES)
