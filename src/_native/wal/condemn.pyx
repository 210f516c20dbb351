"""The end of a replica whose disk failed: it stops at once, says so, and is never retried as if nothing had happened.

The last in-sync copy is frozen instead, when it is the extents or the sums that failed: it takes no more writes and
applies nothing, and goes on serving reads. Safety argument. What a failed write or flush may have left half-way lies in
(applied, target] of the log, which is never released any more, and in the dirty map, which every read asks first; what
is older is held against its sum as ever. Writes that have an LSN commit: they are durable in the log, where the next
start finds them. No other replica needs this one to be silent, for none is in sync; when one has caught up, the
authority hands over to it, and the fence or the newer line ends this primacy as it ends any.
"""

from sparrow._native.events cimport EVENT_DISK_FAILED, event_up
from sparrow._native.gate cimport CAUSE_DISK, gate_close
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport EIO
from sparrow._native.volume cimport PEERS_MAX, Volume
from sparrow._native.waiters cimport wake_all

cdef enum:
    EXTENTS = 2
    SUMS = 3
    ABSENCES = 5


cdef bint last_copy(const Volume *volume) noexcept nogil:
    """An open primary whose commits need nobody else."""
    cdef int i
    for i in range(PEERS_MAX):
        if volume.peers[i] != NULL and (volume.peers[i].needed or volume.peers[i].one_of):
            return False
    return volume.primary and volume.gate.allowed and not volume.closing


cdef void condemn(Volume *volume, int file, int rc) noexcept nogil:
    cdef bint data = file == EXTENTS or file == SUMS or file == ABSENCES
    if volume.condemned or (volume.frozen and data):
        return
    if data and last_copy(volume):
        volume.frozen = True
        # Writes without an LSN end with an error, now.
        task_queue(volume.reactor, &volume.resume_task)
    else:
        volume.condemned = True
        gate_close(volume, CAUSE_DISK)
        wake_all(&volume.commit_waiters, -EIO)
    event_up(volume, EVENT_DISK_FAILED, file, <unsigned long long>-rc, volume.frozen and not volume.condemned, 0)
    # Nothing is applied here any more: who waits for that is told.
    wake_all(&volume.flush.waiters, -EIO)
    task_queue(volume.reactor, &volume.quiet_task)
