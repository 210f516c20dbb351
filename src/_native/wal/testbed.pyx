"""For tests only: `durable` on an io table whose operations end when the test says so, with the result it names."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.reactor cimport Reactor
from sparrow._native.sys cimport iovec, memset, sp_assert
from sparrow._native.volume cimport Core, MemBatch, Volume
from sparrow._native.wal.durable cimport durable_open, durable_write

cdef enum:
    BATCHES = 32
    VOLUMES = 4
    PLAIN = 1
    DSYNC = 2
    FLUSH = 3


cdef struct Bed:
    Reactor reactor
    Core core
    Volume volumes[VOLUMES]
    MemBatch batches[BATCHES]
    int state[BATCHES]         # how it is being written
    int32_t results[BATCHES]   # what `durable` said
    bint told[BATCHES]
    int flush_fd               # of the flush in flight
    Op *flush


cdef void bed_write(Io *io, Op *op, int fd, iovec *iov, uint32_t count, uint64_t offset, bint dsync) noexcept nogil:
    cdef Bed *bed = <Bed *>io.impl
    op.busy = True
    bed.state[op.tag] = DSYNC if dsync else PLAIN


cdef void bed_datasync(Io *io, Op *op, int fd) noexcept nogil:
    cdef Bed *bed = <Bed *>io.impl
    sp_assert(bed.flush == NULL, b"two flushes of one device at once")
    op.busy = True
    bed.flush = op
    bed.flush_fd = fd


cdef void on_done(MemBatch *batch, int32_t res) noexcept nogil:
    cdef Bed *bed = <Bed *>batch.volume.reactor.io.impl
    sp_assert(not bed.told[batch.op.tag], b"a batch is reported twice")
    bed.told[batch.op.tag] = True
    bed.results[batch.op.tag] = res


cdef class DurableBed:
    """Four logs on one device; ``share_from`` as in ``wal/durable.pxd``."""

    cdef Bed bed

    def __cinit__(self, *, uint32_t share_from):
        cdef uint32_t i
        memset(&self.bed, 0, sizeof(Bed))
        self.bed.reactor.core = &self.bed.core
        self.bed.reactor.io.impl = &self.bed
        self.bed.reactor.io.write = bed_write
        self.bed.reactor.io.datasync = bed_datasync
        self.bed.core.reactor = &self.bed.reactor
        for i in range(VOLUMES):
            self.bed.volumes[i].reactor = &self.bed.reactor
            self.bed.volumes[i].log.fd = 100 + <int>i
        durable_open(&self.bed.core, share_from, on_done)

    def write(self, int batch, *, int volume=0):
        """Submit a batch; returns "plain" or "dsync"."""
        self.bed.batches[batch].volume = &self.bed.volumes[volume]
        self.bed.batches[batch].op.tag = batch
        self.bed.told[batch] = False
        durable_write(&self.bed.batches[batch], 1, 0)
        return "dsync" if self.bed.state[batch] == DSYNC else "plain"

    def written(self, int batch, int32_t res=4096):
        """The write of a batch completes."""
        cdef Op *op = &self.bed.batches[batch].op
        if not op.busy:
            raise ValueError(f"batch {batch} is not being written")
        op.busy = False
        op.done(op, res)

    @property
    def flushing(self):
        """Volume whose log the flush in flight was asked of, or None."""
        return self.bed.flush_fd - 100 if self.bed.flush != NULL else None

    def flushed(self, int32_t res=0):
        """The flush in flight completes."""
        cdef Op *op = self.bed.flush
        if op == NULL:
            raise ValueError("no flush is in flight")
        self.bed.flush = NULL
        op.busy = False
        op.done(op, res)

    def result(self, int batch):
        """What was reported of a batch, or None."""
        return self.bed.results[batch] if self.bed.told[batch] else None
