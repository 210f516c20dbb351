"""For tests only: the pacer of base lanes under a clock and writes that the test makes up."""

from libc.stdint cimport uint64_t

from sparrow._native.replication.pace cimport pace_lane, pace_next, pace_note, pace_spend
from sparrow._native.sys cimport memset
from sparrow._native.volume cimport Core


cdef class PaceBed:
    """Times in nanoseconds of one clock that never goes back; bytes."""

    cdef Core core

    def __cinit__(self, *, uint64_t cap=0, unsigned int stretch_percent=125):
        memset(&self.core, 0, sizeof(Core))
        self.core.pace.cap = cap
        self.core.pace.stretch_percent = stretch_percent

    def note(self, uint64_t now, uint64_t took):
        pace_note(&self.core, now, took)

    def lane(self, uint64_t now, int change):
        pace_lane(&self.core, now, change)

    def next(self, uint64_t now):
        return pace_next(&self.core, now)

    def spend(self, uint64_t now, uint64_t size):
        pace_spend(&self.core, now, size)

    @property
    def rate(self):
        return self.core.pace.rate

    @property
    def usual(self):
        return self.core.pace.usual_ns
