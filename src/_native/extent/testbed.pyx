"""For tests only: turns of rounds, and `sync` on an io table whose flushes end when the test says so, as it says."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.extent.rounds cimport round_returned, round_time
from sparrow._native.extent.sync cimport sync_file, sync_init
from sparrow._native.io.ops cimport Io, Op
from sparrow._native.reactor cimport Reactor
from sparrow._native.sys cimport calloc, free, memset, sp_assert
from sparrow._native.volume cimport Core, Sync, Volume, Waiter

cdef enum:
    WAITERS = 16
    FD = 100


cdef struct Bed:
    Reactor reactor
    Volume volume
    Sync sync
    Waiter waiters[WAITERS]
    bint told[WAITERS]
    int results[WAITERS]
    Op *flush                  # under way
    uint32_t flushes


cdef void bed_datasync(Io *io, Op *op, int fd) noexcept nogil:
    cdef Bed *bed = <Bed *>io.impl
    sp_assert(bed.flush == NULL, b"two flushes of one file at once")
    sp_assert(fd == FD, b"a flush of another file")
    op.busy = True
    bed.flush = op
    bed.flushes += 1


cdef void on_told(Waiter *waiter, int rc) noexcept nogil:
    cdef Bed *bed = <Bed *>waiter.owner
    sp_assert(not bed.told[waiter.arg], b"somebody is told twice")
    bed.told[waiter.arg] = True
    bed.results[waiter.arg] = rc


cdef class SyncBed:
    """One file; those who ask for a flush of it have numbers below 16."""

    cdef Bed bed

    def __cinit__(self):
        memset(&self.bed, 0, sizeof(Bed))
        self.bed.reactor.io.impl = &self.bed
        self.bed.reactor.io.datasync = bed_datasync
        self.bed.volume.reactor = &self.bed.reactor
        sync_init(&self.bed.sync, &self.bed.volume, FD)

    def ask(self, uint32_t who):
        self.bed.told[who] = False
        self.bed.waiters[who].wake = on_told
        self.bed.waiters[who].owner = &self.bed
        self.bed.waiters[who].arg = who
        sync_file(&self.bed.sync, &self.bed.waiters[who])

    def ended(self, int32_t res=0):
        """The flush under way completes."""
        cdef Op *op = self.bed.flush
        if op == NULL:
            raise ValueError("no flush is under way")
        self.bed.flush = NULL
        op.busy = False
        op.done(op, res)

    @property
    def flushes(self):
        """Submitted so far."""
        return self.bed.flushes

    @property
    def busy(self):
        return self.bed.flush != NULL

    def result(self, uint32_t who):
        """What it was told, or None."""
        return self.bed.results[who] if self.bed.told[who] else None


cdef class RoundsBed:
    """A core whose map of unapplied versions has room for 100."""

    cdef Core *core

    def __cinit__(self):
        self.core = <Core *>calloc(1, sizeof(Core))
        if self.core == NULL:
            raise MemoryError
        self.core.dirty.room = 100

    def __dealloc__(self):
        free(self.core)

    def take(self, uint64_t now_ns, *, uint32_t unapplied=0):
        """When a volume whose first version was logged now has its round, in nanoseconds."""
        self.core.dirty.used = unapplied
        return round_time(self.core, now_ns)

    def give_back(self):
        """A round began before its turn came."""
        round_returned(self.core)
