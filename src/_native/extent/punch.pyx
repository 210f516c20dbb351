"""The puncher: whole aligned pieces of 1 MiB without data leave the extent file, so that the pool has their place back.

Safety argument. A piece is punched only when every one of its pages is `zero` or `hole` in sums that are durable, and
such pages are never read from the extents: a crash between the two leaves bytes that nobody reads, never a page that
should be there and is not. No page of a piece can become data meanwhile: only the flusher and the base lane of a
rebuild write extents, the flusher is busy with this (STAGE_PUNCH) until the kernel has answered, and the base lane
waits for an idle flusher; while a base write is under way (`views`) or the replica is being rebuilt nothing is punched.
A read under way that finds zeros where its sum says otherwise looks the page up again, as after any flush.

A crash leaks nothing: the log keeps zero entries until their pieces were looked at and the next round has made the
extents durable, and recovery takes those entries as hints again. Only a log that is four fifths full lets them go
before, and one of a replica being rebuilt, where nothing is punched and a crash begins the rebuild anew; then a crash
may leave bytes behind that nobody reads. A hint only says where to look, so hints are merged when there are too many; a
piece that never held anything is passed over by its states. fallocate may take long and always runs on a worker of the
ring, never on the reactor.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.extent.sums cimport FRAME_PAGES, frame_get, frame_put, frame_state
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_PAGE_DATA, SP_PAGE_LOST, SP_PAGE_ZERO, SP_STATE_REBUILDING
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport now_boot, timer_set
from sparrow._native.sys cimport EDQUOT, EINTR, ENOMEM, ENOSPC, EOPNOTSUPP
from sparrow._native.volume cimport PUNCH_MAX, Core, Frame, Punch, PunchRange, Volume, Waiter
from sparrow._native.wal.condemn cimport condemn

cdef enum:
    LOOK_PIECES = 64           # looked at before the flusher has its turn again
    RUN_PIECES = 64            # given back by one call

cdef uint64_t FOREVER = <uint64_t>-1
cdef uint64_t RETRY_NS = 1000000000


cdef void punch_init(Volume *volume, void (*done)(Volume *volume) noexcept nogil) noexcept nogil:
    volume.punch.done = done
    volume.punch.floor_lsn = FOREVER
    volume.punch.op.done = on_punched
    volume.punch.op.owner = volume
    volume.punch.waiter.wake = on_frame
    volume.punch.waiter.owner = volume


cdef void punch_forget(Volume *volume) noexcept nogil:
    volume.punch.count = 0
    volume.punch.floor_lsn = FOREVER


cdef uint64_t punch_floor(const Volume *volume) noexcept nogil:
    return FOREVER if volume.super.now.state == SP_STATE_REBUILDING else volume.punch.floor_lsn


cdef bint punch_wanted(const Volume *volume) noexcept nogil:
    return volume.punch.count != 0 and not volume.punch.wait and volume.super.now.state != SP_STATE_REBUILDING


cdef uint64_t apart(const PunchRange *range, uint64_t first, uint64_t end) noexcept nogil:
    """Pieces between the two, 0 when they touch."""
    if end < range.first:
        return range.first - end
    return first - range.end if first > range.end else 0


cdef void punch_hint(Volume *volume, uint64_t first_page, uint64_t count, uint64_t lsn) noexcept nogil:
    """Joined to the range that is nearest when it touches one, or when there are as many as can be."""
    cdef Punch *punch = &volume.punch
    cdef uint64_t first = first_page // PUNCH_PAGES
    cdef uint64_t end = (first_page + count - 1) // PUNCH_PAGES + 1
    cdef uint64_t gap, best = FOREVER
    cdef uint32_t at = 0
    cdef uint32_t i
    if punch.unsupported:
        return
    punch.floor_lsn = min(punch.floor_lsn, lsn)
    for i in range(punch.count):
        gap = apart(&punch.ranges[i], first, end)
        if gap < best:
            best = gap
            at = i
    if best != 0 and punch.count < PUNCH_MAX:
        at = punch.count
        punch.count += 1
        punch.ranges[at].first = first
        punch.ranges[at].end = end
    else:
        punch.ranges[at].first = min(punch.ranges[at].first, first)
        punch.ranges[at].end = max(punch.ranges[at].end, end)


cdef void punch_some(Volume *volume) noexcept nogil:
    """Look at pieces from the beginning of the last range on, until a run of free ones ends or enough were looked at."""
    cdef Punch *punch = &volume.punch
    punch.at = punch.ranges[punch.count - 1].first
    punch.run_first = punch.at
    punch.run_end = punch.at
    look(volume)


cdef int piece_free(Volume *volume, uint64_t piece) noexcept nogil:
    """1: no data, and something that was given up; 0: nothing to give back; -1: a sums block is awaited."""
    cdef Core *core = <Core *>volume.reactor.core
    cdef uint64_t page = piece * PUNCH_PAGES
    cdef uint64_t end = min(page + PUNCH_PAGES, volume.pages)
    cdef Frame *frame = NULL
    cdef uint32_t state
    cdef int zeros = 0
    while page < end:
        if frame == NULL or frame.block != page // FRAME_PAGES:
            if frame != NULL:
                frame_put(frame)
            frame = frame_get(core, volume, page, &volume.punch.waiter)
            if frame == NULL:
                return -1
        state = frame_state(frame, page)
        if state == SP_PAGE_DATA or state == SP_PAGE_LOST:
            # A lost page may be data again when a peer says what it holds.
            zeros = 0
            break
        if state == SP_PAGE_ZERO:
            zeros = 1
        page += 1
    if frame != NULL:
        frame_put(frame)
    return zeros


cdef void look(Volume *volume) noexcept nogil:
    cdef Punch *punch = &volume.punch
    cdef PunchRange *range = &punch.ranges[punch.count - 1]
    cdef uint64_t stop = min(range.end, range.first + LOOK_PIECES)
    cdef int verdict
    while punch.at < stop:
        verdict = piece_free(volume, punch.at)
        if verdict < 0:
            return
        if verdict == 0:
            if punch.run_end > punch.run_first:
                break
            punch.at += 1
            punch.run_first = punch.at
            punch.run_end = punch.at
            continue
        punch.at += 1
        punch.run_end = punch.at
        if punch.run_end - punch.run_first == RUN_PIECES:
            break
    if punch.run_end > punch.run_first:
        give_back(volume)
    else:
        advance(volume)


cdef void give_back(Volume *volume) noexcept nogil:
    cdef Punch *punch = &volume.punch
    cdef uint64_t first = punch.run_first * PUNCH_PAGES
    cdef uint64_t end = min(punch.run_end * PUNCH_PAGES, volume.pages)
    volume.reactor.io.punch(&volume.reactor.io, &punch.op, volume.ext_fd, first * PAGE, (end - first) * PAGE)


cdef void advance(Volume *volume) noexcept nogil:
    """What was looked at is done with."""
    cdef Punch *punch = &volume.punch
    cdef PunchRange *range = &punch.ranges[punch.count - 1]
    range.first = punch.at
    if range.first >= range.end:
        punch.count -= 1
    if punch.count == 0:
        punch.floor_lsn = FOREVER
    punch.done(volume)


cdef void put_off(Volume *volume) noexcept nogil:
    """Nothing of this part is done; the timer of the flusher brings it back."""
    volume.punch.wait = True
    timer_set(volume.reactor, &volume.flush.timer, now_boot(volume.reactor) + RETRY_NS)
    volume.punch.done(volume)


cdef void on_frame(Waiter *waiter, int rc) noexcept nogil:
    """May be called from within frame_get; then `look` has returned by itself afterwards."""
    cdef Volume *volume = <Volume *>waiter.owner
    if rc == 0:
        look(volume)
    elif volume.punch.run_end > volume.punch.run_first:
        give_back(volume)
    elif rc == -ENOMEM:
        put_off(volume)
    else:
        # A damaged block: what it says of its pages is not known, so they keep their place.
        volume.punch.at += 1
        advance(volume)


cdef void on_punched(Op *op, int32_t res) noexcept nogil:
    cdef Volume *volume = <Volume *>op.owner
    cdef Punch *punch = &volume.punch
    if res == -EOPNOTSUPP:
        punch.unsupported = True
        punch_forget(volume)
        punch.done(volume)
    elif res == -ENOSPC or res == -EDQUOT or res == -EINTR:
        # Even giving back may need a block of the file system's own.
        put_off(volume)
    elif res < 0:
        condemn(volume, 2, res)
        punch_forget(volume)
        punch.done(volume)
    else:
        punch.pieces += punch.run_end - punch.run_first
        advance(volume)
