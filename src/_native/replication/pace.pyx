"""How fast base lanes may copy: never above a cap, and below it as long as clients wait longer than usual.

One rate for all base lanes of a reactor. While none runs, the 99th percentile of the time a client's write takes is
remembered as usual. While one runs, each window of a quarter of a second or more is compared with the usual, stretched
by what is allowed: above it the rate falls by three eighths, below it the rate grows by an eighth and a little. Without
clients there is nothing to protect and only the cap counts. At the lowest rate a copy can hardly be felt: what is
measured there for some seconds is the load's own doing, and becomes the usual; so a copy is never starved for ever by a
load that has grown.
"""

from libc.stdint cimport uint32_t, uint64_t

from sparrow._native.sys cimport memset
from sparrow._native.volume cimport PACE_BUCKETS, Core, Pace

cdef enum:
    SAMPLES_MIN = 16         # fewer writes in a second are no load
    SAMPLES_WANTED = 200     # a percentile of fewer is noise: the window is made longer
    PATIENCE = 16            # windows at the lowest rate until what is measured is the usual

cdef uint64_t WINDOW_NS = 250000000
cdef uint64_t WINDOW_NS_MAX = 1000000000
cdef uint64_t BURST_NS = 20000000
cdef uint64_t RATE_MIN = 2097152
cdef uint64_t RATE_FIRST = 16777216
cdef uint64_t RATE_MAX = 4294967296
cdef uint64_t UNKNOWN_NS = 10000000      # the usual of clients nobody has measured
cdef uint64_t FLOOR_NS = 500000         # differences below it are not worth slowing down for


cdef uint32_t bucket_of(uint64_t ns) noexcept nogil:
    """Four buckets to the octave, from one microsecond on."""
    cdef uint64_t us = ns // 1000
    cdef uint32_t octave = 0
    while us >= 8:
        us >>= 1
        octave += 1
    # us is 4 to 7 from the second octave on.
    return min(<uint32_t>(4 * octave + us), <uint32_t>(PACE_BUCKETS - 1))


cdef uint64_t bucket_ns(uint32_t bucket) noexcept nogil:
    """The upper end of a bucket."""
    cdef uint32_t octave = 0 if bucket < 8 else (bucket - 4) // 4
    return (<uint64_t>(bucket - 4 * octave + 1) << octave) * 1000


cdef uint64_t percentile(const Pace *pace) noexcept nogil:
    """The 99th of the window."""
    cdef uint32_t above = pace.samples // 100
    cdef uint32_t i = PACE_BUCKETS
    cdef uint32_t seen = 0
    while i > 0:
        i -= 1
        seen += pace.counts[i]
        if seen > above:
            return bucket_ns(i)
    return 0


cdef void pace_note(Core *core, uint64_t now, uint64_t took_ns) noexcept nogil:
    cdef Pace *pace = &core.pace
    pace.counts[bucket_of(took_ns)] += 1
    pace.samples += 1
    pace.noted_ns = now
    if now >= pace.window_ns + WINDOW_NS:
        look(pace, now)


cdef void look(Pace *pace, uint64_t now) noexcept nogil:
    """A window may be over: decide by what was measured in it, and begin the next."""
    cdef uint64_t length = now - pace.window_ns
    cdef uint64_t measured
    if length < WINDOW_NS or (pace.samples < SAMPLES_WANTED and length < WINDOW_NS_MAX):
        return
    measured = percentile(pace)
    # Clients may have gone away in the middle of the window.
    pace.loaded = pace.samples >= SAMPLES_MIN and now < pace.noted_ns + WINDOW_NS_MAX
    if not pace.loaded:
        pace.rate = 0
    elif pace.lanes == 0:
        pace.usual_ns = measured if pace.usual_ns == 0 else (3 * pace.usual_ns + measured) // 4
    else:
        decide(pace, measured, pace.spent * 1000000000 // length)
    memset(pace.counts, 0, sizeof(pace.counts))
    pace.samples = 0
    pace.spent = 0
    pace.window_ns = now


cdef void decide(Pace *pace, uint64_t measured, uint64_t copied) noexcept nogil:
    """`copied`: bytes per second in this window."""
    cdef uint64_t usual = pace.usual_ns if pace.usual_ns != 0 else UNKNOWN_NS
    if measured > usual * pace.stretch_percent // 100 and measured > usual + FLOOR_NS:
        if pace.rate == 0:
            pace.rate = max(copied, RATE_FIRST)
        pace.low = pace.low + 1 if pace.rate <= RATE_MIN else 0
        pace.rate = max(pace.rate * 5 // 8, RATE_MIN)
        if pace.low >= PATIENCE:
            pace.usual_ns = measured
            pace.low = 0
    elif pace.rate != 0:
        pace.low = 0
        pace.rate = min(pace.rate + pace.rate // 8 + 1048576, RATE_MAX)


cdef void pace_lane(Core *core, uint64_t now, int change) noexcept nogil:
    cdef Pace *pace = &core.pace
    if change > 0 and pace.lanes == 0:
        # What was measured until now is of clients alone. Beside clients a copy begins slowly.
        look(pace, now)
        pace.low = 0
        pace.rate = RATE_FIRST if pace.loaded else 0
        pace.next_ns = now
    pace.lanes += change


cdef uint64_t allowed(const Pace *pace) noexcept nogil:
    """Bytes per second; 0 for no bound."""
    if pace.rate == 0 or (pace.cap != 0 and pace.cap < pace.rate):
        return pace.cap
    return pace.rate


cdef uint64_t pace_next(Core *core, uint64_t now) noexcept nogil:
    look(&core.pace, now)
    return core.pace.next_ns if allowed(&core.pace) != 0 and core.pace.next_ns > now else 0


cdef bint pace_bound(Core *core) noexcept nogil:
    return allowed(&core.pace) != 0


cdef void pace_spend(Core *core, uint64_t now, uint64_t bytes) noexcept nogil:
    cdef Pace *pace = &core.pace
    cdef uint64_t rate = allowed(pace)
    pace.spent += bytes
    if rate != 0:
        # What was not used a moment ago may be used now, and no more.
        pace.next_ns = max(pace.next_ns, now - BURST_NS) + bytes * 1000000000 // rate
