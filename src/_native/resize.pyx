"""Size is log state: an entry makes the volume longer, and fails over with the data like any other.

Three sizes. `pages` is that of the log's end: entries after a resize may lie in what it added. `served` is that of the
commit LSN: what clients are told and may use. The superblock has that of the checkpoint; resizes above it are found
again by the walk over the log, and a cut takes them back with the entries that relied on them.

Safety argument. A replica logs a resize, and acknowledges it, only when its own files are that long, sums written and
durable; so when it commits, every replica that has it can take every page that may be written from then on, and no
successor finds itself too short. Making files longer may block: the control side does it on a helper thread, meanwhile
the follower takes no batch, which is back-pressure like any other. Nothing is ever made shorter: a longer file behind a
resize that was cut holds only blank sums. A replica that is rebuilt takes the size as of the start of its base lane
from the primary; what was added later comes by the log alone.
"""

from libc.stdint cimport uint64_t

from sparrow._native.events cimport EVENT_FILES_SHORT, EVENT_RESIZED, event_up
from sparrow._native.front.client cimport ClientHooks, client_resized
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport memmove, sp_assert
from sparrow._native.volume cimport RESIZES_MAX, Core, Resize, Volume


cdef void resize_init(Volume *volume, uint64_t pages, uint64_t file_pages) noexcept nogil:
    volume.pages = pages
    volume.served = pages
    volume.file_pages = file_pages
    volume.grow_asked = 0
    volume.resize_count = 0


cdef bint resize_room(const Volume *volume, uint64_t count) noexcept nogil:
    return volume.resize_count + count <= RESIZES_MAX


cdef void resize_logged(Volume *volume, uint64_t lsn, uint64_t pages) noexcept nogil:
    if pages <= volume.pages:
        return
    sp_assert(resize_room(volume, 1), b"there is room for a resize, the caller looked")
    sp_assert(pages <= volume.file_pages, b"a resize is logged when the files are as long")
    volume.resizes[volume.resize_count].lsn = lsn
    volume.resizes[volume.resize_count].pages = pages
    volume.resize_count += 1
    volume.pages = pages


cdef bint resize_files(Volume *volume, uint64_t pages) noexcept nogil:
    if pages <= volume.file_pages:
        return True
    if volume.grow_asked < pages:
        volume.grow_asked = pages
        event_up(volume, EVENT_FILES_SHORT, pages * PAGE, 0, 0, 0)
    return False


cdef void resize_grown(Volume *volume, uint64_t file_pages) noexcept nogil:
    volume.file_pages = max(volume.file_pages, file_pages)
    if volume.follow != NULL:
        task_queue(volume.reactor, &volume.follow.task)


cdef bint resize_serve(Volume *volume) noexcept nogil:
    cdef uint64_t before = volume.served
    cdef uint64_t i
    for i in range(volume.resize_count):
        if volume.resizes[i].lsn <= volume.commit_lsn:
            volume.served = max(volume.served, volume.resizes[i].pages)
    return volume.served != before


cdef void resize_tell(Volume *volume) noexcept nogil:
    """The control side, and every initiator as its protocol has it."""
    event_up(volume, EVENT_RESIZED, volume.served * PAGE, 0, 0, 0)
    client_resized(<ClientHooks *>(<Core *>volume.reactor.core).hooks, volume)


cdef void resize_checkpoint(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef uint64_t i
    for i in range(volume.resize_count):
        if volume.resizes[i].lsn <= lsn:
            volume.super.now.size_bytes = volume.resizes[i].pages * PAGE


cdef void resize_applied(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef uint64_t gone = 0
    while gone < volume.resize_count and volume.resizes[gone].lsn <= lsn:
        gone += 1
    if gone != 0:
        volume.resize_count -= gone
        memmove(&volume.resizes[0], &volume.resizes[gone], volume.resize_count * sizeof(Resize))


cdef void resize_cut(Volume *volume, uint64_t lsn) noexcept nogil:
    while volume.resize_count != 0 and volume.resizes[volume.resize_count - 1].lsn > lsn:
        volume.resize_count -= 1
    if volume.resize_count != 0:
        volume.pages = volume.resizes[volume.resize_count - 1].pages
    else:
        volume.pages = volume.super.now.size_bytes // PAGE
