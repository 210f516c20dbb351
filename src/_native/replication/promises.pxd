# What a replica promised to the primaries of its terms. Thread: reactor.
from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.layout cimport sp_grant_entry, sp_grant_release
from sparrow._native.volume cimport Core, Volume

# The verdict on one entry of an ask that was stamped by the asker at `stamp` and read before `boot` and `raw`; NULL
# when the volume is not here. `promised`: the epoch that is.
cdef uint32_t promise_give(
    Core *core, Volume *volume, const sp_grant_entry *entry, uint64_t stamp, uint64_t boot, uint64_t raw,
    uint64_t *promised
) noexcept nogil
# Let go of what was promised to a term that gave it back.
cdef void promise_forget(Volume *volume, const sp_grant_release *entry) noexcept nogil
# Stop granting the promised term, and remember how long the promise already given still runs.
cdef void grant_stop(Volume *volume) noexcept nogil
# Somebody else is primary and holds a grant of this replica now: that path is the one to use.
cdef bint promise_stands(const Volume *volume) noexcept nogil
# Nanoseconds that a promise given in an older term still runs here, hold-off included.
cdef uint64_t promise_left(Volume *volume) noexcept nogil
# The same without the promise to `prior`, the newest of those terms.
cdef uint64_t older_left(Volume *volume) noexcept nogil
