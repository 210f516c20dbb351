"""For tests only: `durable` and `superblock` on an io table whose operations end when the test says so."""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.layout cimport SP_SUPERBLOCK_SIZE, sp_superblock
from sparrow._native.reactor cimport Reactor
from sparrow._native.sys cimport iovec, memset, sp_assert
from sparrow._native.volume cimport Core, MemBatch, Volume, Waiter
from sparrow._native.wal.durable cimport durable_open, durable_write
from sparrow._native.wal.superblock cimport super_write, super_write_first

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
    """Four logs on one device, files 0 to 3; ``share_from`` and ``flush_fd`` as in ``wal/durable.pxd``, ``apart`` one that takes no part."""

    cdef Bed bed

    def __cinit__(self, *, uint32_t share_from, int flush_fd=-1, int apart=-1):
        cdef uint32_t i
        memset(&self.bed, 0, sizeof(Bed))
        self.bed.reactor.core = &self.bed.core
        self.bed.reactor.io.impl = &self.bed
        self.bed.reactor.io.write = bed_write
        self.bed.reactor.io.datasync = bed_datasync
        self.bed.core.reactor = &self.bed.reactor
        for i in range(VOLUMES):
            self.bed.volumes[i].reactor = &self.bed.reactor
            self.bed.volumes[i].log.fd = <int>i
            self.bed.volumes[i].log.apart = <int>i == apart
        durable_open(&self.bed.core, share_from, flush_fd, on_done)

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
        """File that the flush in flight was asked of, or None."""
        return self.bed.flush_fd if self.bed.flush != NULL else None

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


# ---------------------------------------------------------------- superblock

cdef enum:
    ASKERS = 16


cdef struct SuperBed:
    Reactor reactor
    Volume volume
    sp_superblock now
    sp_superblock image
    Waiter waiters[ASKERS]
    bint told[ASKERS]
    int rcs[ASKERS]
    int then[ASKERS]           # who asks, for the first copy, as soon as this one is told; 0 for nobody
    int copy                   # being written, -1 for none
    uint64_t cursor            # in it
    uint64_t copies            # begun so far


cdef void bed_copy(Io *io, Op *op, int fd, iovec *iov, uint32_t count, uint64_t offset, bint dsync) noexcept nogil:
    cdef SuperBed *bed = <SuperBed *>io.impl
    sp_assert(bed.copy < 0 and dsync, b"one durable write of a copy at a time")
    op.busy = True
    bed.copy = <int>(offset // SP_SUPERBLOCK_SIZE)
    bed.cursor = (<sp_superblock *>iov[0].iov_base).base_cursor
    bed.copies += 1


cdef void on_told(Waiter *waiter, int rc) noexcept nogil:
    cdef SuperBed *bed = <SuperBed *>waiter.owner
    sp_assert(not bed.told[waiter.arg], b"somebody is told twice")
    bed.told[waiter.arg] = True
    bed.rcs[waiter.arg] = rc
    if bed.then[waiter.arg] != 0:
        ask(bed, bed.then[waiter.arg], True)


cdef void ask(SuperBed *bed, int who, bint first) noexcept nogil:
    bed.waiters[who].wake = on_told
    bed.waiters[who].owner = bed
    bed.waiters[who].arg = who
    if first:
        super_write_first(&bed.volume, &bed.waiters[who])
    else:
        super_write(&bed.volume, &bed.waiters[who])


cdef class SuperblockBed:
    """The superblock of one replica, with `base_cursor` for what is to be written down."""

    cdef SuperBed bed

    def __cinit__(self):
        memset(&self.bed, 0, sizeof(SuperBed))
        self.bed.copy = -1
        self.bed.reactor.io.impl = &self.bed
        self.bed.reactor.io.write = bed_copy
        self.bed.volume.reactor = &self.bed.reactor
        self.bed.volume.super.now = &self.bed.now
        self.bed.volume.super.image = <uint8_t *>&self.bed.image

    def ask(self, int who, *, uint64_t cursor, bint first=False, int then=0):
        """Let the superblock say so; ``who``, 0 to 15, waits until it does, or ``first`` until one copy of it does.

        ``then`` asks as ``first`` for whatever it is to say by then, as soon as ``who`` is told; 0 is nobody.
        """
        self.bed.now.base_cursor = cursor
        self.bed.then[who] = then
        ask(&self.bed, who, first)

    @property
    def writing(self):
        """The copy that is being written and the cursor in it, or None."""
        return (self.bed.copy, self.bed.cursor) if self.bed.copy >= 0 else None

    @property
    def copies(self):
        """Writes of a copy that were begun."""
        return self.bed.copies

    def written(self):
        """The write of a copy completes."""
        cdef Op *op = &self.bed.volume.super.op
        if self.bed.copy < 0:
            raise ValueError("no copy is being written")
        self.bed.copy = -1
        op.busy = False
        op.done(op, SP_SUPERBLOCK_SIZE)

    def condemn(self):
        """A write or flush of another file fails."""
        self.bed.volume.condemned = True

    def result(self, int who):
        """What somebody was told, or None."""
        return self.bed.rcs[who] if self.bed.told[who] else None
