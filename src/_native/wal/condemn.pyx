"""The end of a replica whose disk failed: it stops at once, says so, and is never retried as if nothing had happened."""

from sparrow._native.events cimport EVENT_DISK_FAILED, event_up
from sparrow._native.gate cimport CAUSE_DISK, gate_close
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport EIO
from sparrow._native.volume cimport Volume
from sparrow._native.waiters cimport wake_all


cdef void condemn(Volume *volume, int file, int rc) noexcept nogil:
    if volume.condemned:
        return
    volume.condemned = True
    gate_close(volume, CAUSE_DISK)
    event_up(volume, EVENT_DISK_FAILED, file, <unsigned long long>-rc, 0, 0)
    # Nothing is applied or committed here any more: who waits for that is told.
    wake_all(&volume.flush.waiters, -EIO)
    wake_all(&volume.commit_waiters, -EIO)
    task_queue(volume.reactor, &volume.quiet_task)
