"""Rounds of volumes that write little take turns: one every 20 ms, none later than it would be by three seconds.

A round costs six durable writes and flushes however few versions it applies, and the longer it waits the more of them
are of one page or of neighbours. Up to 50 volumes that write each have a round a second after their first version; of
more, each waits for its turn, but only while the map of unapplied versions, which all of them share, is less than half
full. That is looked at again with everything that commits: at 40,000 pages a second the map is half full before the
first of 200 volumes that began together has its turn, and then each that has waited for its second goes. Where nobody
finds room at last, one that was put off and holds more than who asks goes as well, the largest first. Whoever asks for
a round, or has as many versions as begin one, does not wait, and gives its turn back.

Nothing is built on when a round comes: what waits is in the log and in the map, as it was for that second.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.volume cimport Core, Volume

cdef uint64_t QUIET_NS = 1000000000
cdef uint64_t TURN_NS = 20000000
cdef uint64_t PUT_OFF_NS = 3000000000


cdef bint round_crowded(Core *core) noexcept nogil:
    return core.dirty.used >= core.dirty.room // 2


cdef void round_returned(Core *core) noexcept nogil:
    # Not its place, which may lie between others: the next one comes as much earlier, so as many come in a second.
    core.round_ns -= min(core.round_ns, TURN_NS)


cdef Volume *round_largest(Core *core, Volume *asking) noexcept nogil:
    cdef Volume *largest = NULL
    cdef Volume *volume
    cdef uint32_t most = asking.version_count
    cdef uint32_t i
    for i in range(core.volume_end):
        volume = core.volumes[i]
        if volume == NULL or volume.version_count <= most:
            continue
        # Of one whose last round was given up the timer is when that is tried again.
        if volume.flush.timer.slot != 0 and volume.flush.stage == 0 and volume.flush.rc == 0:
            largest = volume
            most = volume.version_count
    return largest


cdef uint64_t round_time(Core *core, uint64_t now) noexcept nogil:
    cdef uint64_t at = now + QUIET_NS
    if not round_crowded(core):
        at = max(at, min(core.round_ns + TURN_NS, at + PUT_OFF_NS))
    core.round_ns = max(core.round_ns, at)
    return at
