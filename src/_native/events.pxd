# What the core tells Python: completions of commands (token set) and events. Numbers are shared with
# dataplane/events.py through the enum's Python names in core.pyx.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.reactor cimport Reactor
from sparrow._native.volume cimport Volume

cdef enum EventKind:
    EVENT_DONE = 1             # a command is complete: token, rc, payload
    EVENT_GATE_OPENED = 2      # a epoch, b start
    EVENT_GATE_CLOSED = 3      # a epoch, b start, c deadline, d lateness us; flags cause
    EVENT_PEER_LOST = 4        # a slot, b epoch, c start, d cause
    EVENT_PEER_REBUILT = 5     # a slot, b epoch, c start, d lsn
    EVENT_PRIMARY_LOST = 6     # a epoch, b start, c cause, d bytes of base pages installed
    EVENT_NEWER_EPOCH = 7      # a epoch
    EVENT_DISK_FAILED = 8      # a file, b errno, c 1: frozen, else condemned
    EVENT_POOL_FULL = 9        # a 1 full, 0 room again
    EVENT_PAGE_DAMAGED = 10    # a page
    EVENT_UPCALL = 11          # a session key, b tag, c gate open, d a primary holds our grant; payload: 48 bytes header, data
    EVENT_SESSION_ENDED = 12   # a session key, b cause
    EVENT_GRANT_LINK_LOST = 13 # a node key
    EVENT_STOPPED = 14
    EVENT_SUMS_DAMAGED = 15    # a block, b errno of the read or 0
    EVENT_BATCH_DAMAGED = 16   # a first LSN, b last LSN
    EVENT_RESIZED = 17         # a bytes: clients may use so many now
    EVENT_FILES_SHORT = 18     # a bytes: a resize waits for files that can hold so many
    EVENT_RESERVATIONS = 19    # a LSN; payload: the table of reservations that committed with it

cdef void event_up(Volume *volume, uint32_t kind, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil
# With a payload, malloc'ed, which goes to the receiver.
cdef void event_data_up(Volume *volume, uint32_t kind, uint64_t a, uint8_t *data, uint64_t length) noexcept nogil
# Complete a command. `data` is malloc'ed or NULL and goes to the receiver.
cdef void done_up(Reactor *reactor, uint64_t token, int rc, uint64_t a, uint64_t b, uint64_t c, uint8_t *data,
                  uint64_t length) noexcept nogil
