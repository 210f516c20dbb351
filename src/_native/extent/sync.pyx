"""Flushes of a file that goes through the page cache: one at a time, and none counts after one that failed.

When the kernel cannot write a page back it notes an error with the file, marks the page clean, and tells the error to
the first flush of each open descriptor that looks afterwards, once. Two flushes of one descriptor beside each other may
both have pages among those that were lost; one of them is told, the other ends well, and nothing says which of the two
is heard of first. A write that flushes by itself (RWF_DSYNC) looks like any flush, and takes the error as well.
(Linux, Documentation/core-api/errseq: check and advance; `file_check_and_advance_wb_err` in fsync and in synchronous
writes.)

Safety argument. Whoever builds a claim on a flush (the flusher its applied LSN, a mark of a copy its cursor, a repair
its answer) needs that no page written before it was lost. Here (a) all flushes of one file go through one descriptor of
it, by this module; (b) the next is submitted only when the one before was heard of; (c) nothing else on that descriptor
looks for errors: its writes are plain ones, and neither a read, nor a hole, nor a hint to write back takes one. So an
error that was noted by the time a flush looks is either its own to tell, or was told to a flush that ended before this
one was submitted. That one has failed here, and after a failure no flush counts: those who wait, for this or for the
next one, get the error, and so does whoever asks later. So a flush that ends well has seen every error there was, and
all that was written before it was submitted is on the disk.

Who comes while one is under way shares the next: what he wrote was written before that is submitted. He waits for up to
two flushes, and as many as there are pay for one.

The log and the superblock are not flushed this way: they go past the page cache, where a write is told its own error.
The absence maps have one flush at a time by themselves, that of the round (absence.pyx).
"""

from libc.stdint cimport int32_t

from sparrow._native.io.ops cimport Op
from sparrow._native.volume cimport Sync, Volume, Waiter
from sparrow._native.waiters cimport wake_all, waiter_add


cdef void sync_init(Sync *sync, Volume *volume, int fd) noexcept nogil:
    sync.volume = volume
    sync.fd = fd
    sync.op.owner = sync
    sync.op.done = on_synced


cdef void sync_file(Sync *sync, Waiter *waiter) noexcept nogil:
    if sync.rc < 0:
        waiter.wake(waiter, sync.rc)
        return
    waiter_add(&sync.waiting, waiter)
    if not sync.op.busy:
        begin(sync)


cdef void begin(Sync *sync) noexcept nogil:
    sync.flushing = sync.waiting
    sync.waiting = NULL
    sync.volume.reactor.io.datasync(&sync.volume.reactor.io, &sync.op, sync.fd)


cdef void on_synced(Op *op, int32_t res) noexcept nogil:
    """The next one begins first: who is woken may let go of the volume, and nobody does who waits for it."""
    cdef Sync *sync = <Sync *>op.owner
    cdef Waiter *ended = sync.flushing
    cdef Waiter *refused = NULL
    sync.flushing = NULL
    if res < 0:
        sync.rc = res
        refused = sync.waiting
        sync.waiting = NULL
    elif sync.waiting != NULL:
        begin(sync)
    wake_all(&ended, res if res < 0 else 0)
    wake_all(&refused, res)
