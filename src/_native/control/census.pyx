"""Accounts for everything a core was lent: what is missing from its pools after a stop was leaked.

Pools are counted from their own free lists and references, not from a number that is kept beside them, so a thing that
was put back twice shows as well. Volumes stand for what hangs on them: a volume is not let go while it has links,
sessions, requests or commands (control/open.pyx).
"""

from libc.stdint cimport int64_t, uint32_t

from sparrow._native.front.client cimport ClientHooks
from sparrow._native.reactor cimport Reactor, Task
from sparrow._native.sys cimport memset
from sparrow._native.volume cimport FRAME_FREE, NONE, Core, GrantLink, MemBatch, ReadRun


cdef void census_take(Core *core, Census *census) noexcept nogil:
    cdef Reactor *reactor = core.reactor
    cdef GrantLink *link = core.grants
    cdef MemBatch *batch = core.free_batch
    cdef ReadRun *run = core.free_run
    cdef Task *task = reactor.task_head
    cdef int64_t count = 0
    cdef uint32_t i
    memset(census, 0, sizeof(Census))
    for i in range(core.volume_end):
        census.volumes += core.volumes[i] != NULL
    census.sessions = (<ClientHooks *>core.hooks).count
    while link != NULL:
        census.grant_links += 1
        link = link.next
    # A list that is longer than its pool has a thing in it twice, and may have no end.
    while batch != NULL and count <= core.batch_room:
        count += 1
        batch = batch.next
    census.batches = <int64_t>core.batch_room - count
    count = 0
    while run != NULL and count <= core.run_room:
        count += 1
        run = run.next
    census.read_runs = <int64_t>core.run_room - count
    count = 0
    i = core.dirty.free_head
    while i != NONE and count <= core.dirty.room:
        count += 1
        i = core.dirty.versions[i].bucket_next
    census.versions = <int64_t>core.dirty.fresh - count
    for i in range(core.frames.room):
        census.frames += core.frames.frames[i].state != FRAME_FREE
    for i in range(reactor.pool.count):
        census.pages += reactor.pool.refs[i] != 0
    # The page of zeros is the pool's own.
    census.pages -= 1
    # The grant timer goes on as long as the reactor.
    census.timers = <int64_t>reactor.heap_count - (core.grant_timer.slot != 0)
    while task != NULL:
        census.tasks += 1
        task = task.next
