# Which pages hold data, through the committed view. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.volume cimport Volume, Waiter

# One look at a range of pages. Whoever asks fills the first part, keeps it until `done` is called, once, and owns
# `runs`.
cdef struct StateLook:
    Volume *volume
    uint64_t at                # next page
    uint64_t end               # page after the last one; within the volume
    uint64_t *runs             # pages of each run in its upper 63 bits, lowest bit: there is data
    uint32_t room              # runs that fit; the look ends early when more would be needed
    void (*done)(StateLook *look, int rc) noexcept nogil
    void *owner
    uint32_t count             # runs found, at least one when rc is 0
    Waiter waiter

# `done` may be called before this returns. rc: 0, -EIO (what the disk says of them is damaged), -ENOMEM.
cdef void states_look(StateLook *look) noexcept nogil
