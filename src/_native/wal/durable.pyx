"""How a batch becomes durable: by a write that flushes by itself, or by one flush for all that wait on the device.

A device with a volatile cache and without FUA pays a flush for each durable write. While very few batches are under way
that is still the best there is: one submission, one completion, and the kernel lets flushes that meet share one. With
more the flushes queue behind each other. So from `share_from` batches under way on the device, new ones are written
plainly and one flush at a time makes durable everything whose write completed before the flush was submitted, of
whatever volume (docs/decisions/0008).

Which file is flushed matters for the time it takes only. ext4 without a journal first writes the inode of that file if
its times are newer than on the disk, waits for it, and then flushes the device; the times of a log are newer whenever
the clock has ticked since its last write. So it is `flush_fd`, a file that nobody writes.

Safety argument. A batch is reported durable only (a) by a write with RWF_DSYNC that completed in full, or (b) by a
flush that was submitted after the batch's plain write had completed in full: `written` collects completed writes,
a flush takes the whole list at its submission, and what completes later waits for the next one. The flush is asked of
one file on the device, and reaches the device's cache as a whole; that needs writes past the page cache, a file system
that flushes the device at each fdatasync, also of a file without anything to write, and rings whose blocks were
written before, so that no metadata of another file is at stake (`dataplane/durability.py` says when that is so; else
`share_from` is 0). A log that may lie on another device than that file is `apart` and never takes part. When a flush
fails nobody knows which writes it lost: every volume with a batch in it, or waiting for the next one, is condemned.
"""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Op
from sparrow._native.volume cimport Core, MemBatch, WalDevice


cdef void durable_open(Core *core, uint32_t share_from, int flush_fd, batch_done done) noexcept nogil:
    core.wal_device.share_from = share_from
    core.wal_device.flush_fd = flush_fd
    core.wal_device.done = <void *>done
    core.wal_device.op.done = on_flushed
    core.wal_device.op.owner = core


cdef void durable_write(MemBatch *batch, uint32_t count, uint64_t offset) noexcept nogil:
    cdef Core *core = <Core *>batch.volume.reactor.core
    cdef WalDevice *device = &core.wal_device
    cdef bint plainly
    device.under_way += 1
    # Back to single flushes only when it has become quiet: a device between the two ways would pay for both.
    if device.share_from != 0 and device.under_way >= device.share_from:
        device.sharing = True
    elif device.under_way <= device.share_from // 2:
        device.sharing = False
    plainly = device.sharing and not batch.volume.log.apart
    batch.op.owner = batch
    batch.op.done = on_written if plainly else on_durable
    batch.volume.reactor.io.write(
        &batch.volume.reactor.io, &batch.op, batch.volume.log.fd, batch.iov, count, offset, not plainly
    )


cdef void finish(Core *core, MemBatch *batch, int32_t res) noexcept nogil:
    core.wal_device.under_way -= 1
    (<batch_done>core.wal_device.done)(batch, res)


cdef void on_durable(Op *op, int32_t res) noexcept nogil:
    cdef MemBatch *batch = <MemBatch *>op.owner
    finish(<Core *>batch.volume.reactor.core, batch, res)


cdef void on_written(Op *op, int32_t res) noexcept nogil:
    cdef MemBatch *batch = <MemBatch *>op.owner
    cdef Core *core = <Core *>batch.volume.reactor.core
    if res < 0:
        finish(core, batch, res)
        return
    batch.result = res
    batch.next = core.wal_device.written
    core.wal_device.written = batch
    flush_written(core)


cdef void flush_written(Core *core) noexcept nogil:
    """Submit the next flush for all that is written, unless one is out."""
    cdef WalDevice *device = &core.wal_device
    cdef int fd = device.flush_fd
    if device.flushing != NULL or device.written == NULL:
        return
    device.flushing = device.written
    device.written = NULL
    device.flushes += 1
    if fd < 0:
        # Its volume stays open: a log with a batch under way is not closed.
        fd = device.flushing.volume.log.fd
    core.reactor.io.datasync(&core.reactor.io, &device.op, fd)


cdef void on_flushed(Op *op, int32_t res) noexcept nogil:
    cdef Core *core = <Core *>op.owner
    cdef WalDevice *device = &core.wal_device
    cdef MemBatch *batch = device.flushing
    device.flushing = NULL
    if res < 0:
        finish_all(core, device.written, res)
        device.written = NULL
    finish_all(core, batch, res)
    flush_written(core)


cdef void finish_all(Core *core, MemBatch *batch, int32_t res) noexcept nogil:
    """Each with the bytes its write reported, or with the error of the flush."""
    cdef MemBatch *following
    while batch != NULL:
        following = batch.next
        batch.next = NULL
        finish(core, batch, res if res < 0 else batch.result)
        batch = following
