"""Rounds of volumes that write little take turns: one every 20 ms, none later than it would be by three seconds.

A round costs six durable writes and flushes however few versions it applies, and the longer it waits the more of them are
of one page or of neighbours. Up to 50 volumes that write each have a round a second after their first version; of more,
each waits for its turn, but only while the map of unapplied versions, which all of them share, is less than half full.
Whoever asks for a round, or has as many versions as begin one, does not wait.

Nothing is built on when a round comes: what waits is in the log and in the map, as it was for that second.
"""

from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Core

cdef uint64_t QUIET_NS = 1000000000
cdef uint64_t TURN_NS = 20000000
cdef uint64_t PUT_OFF_NS = 3000000000


cdef uint64_t round_time(Core *core, uint64_t now) noexcept nogil:
    cdef uint64_t at = now + QUIET_NS
    if core.dirty.used < core.dirty.room // 2:
        at = max(at, min(core.round_ns + TURN_NS, at + PUT_OFF_NS))
    core.round_ns = max(core.round_ns, at)
    return at
