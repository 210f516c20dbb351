"""Read-modify-write against the log view, without locks: a page is completed in the turn in which it gets its LSN.

A write that covers a page only in part is logged as a whole page. What it does not cover comes from the newest version
in the log, committed or not, and the merge, the entry and its place in the dirty map are one turn of one thread: two
such writes to one page are put together one after the other, whichever came first, and none is lost. No lock is held
and no other write waits.

Only a page without a version in the dirty map needs the extents, and reading them takes time. Safety argument for that
base: it is what the extents hold as long as no version of the page was applied since. When one is, the flusher, before
it lets the version go, hands it to every request that counts on the page (`merge_refresh`); so at any moment either the
dirty map has a newer version, which then is taken, or the base is current. A base belongs to one term: what was cut off
the log with the old one is not built upon.

The entry has a higher LSN than the version it was built upon, so it cannot commit, nor be answered, before that has.
The answer of a comparison that found a difference waits for the version it was found in. The number of requests that
know their base is bounded; the others wait like those for which there is no room.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.extent.dirty cimport dirty_find
from sparrow._native.extent.read cimport read_start
from sparrow._native.pool cimport PAGE, page_drop, page_hold
from sparrow._native.sys cimport ECANCELED, EIO, ENOMEM, calloc, free, memcpy
from sparrow._native.volume cimport REQ_MERGING, REQ_READ, BlockReq, Core, Merge, Version, Volume

cdef uint64_t FOREVER = <uint64_t>-1


cdef int merges_open(Core *core, uint32_t count) noexcept nogil:
    cdef uint32_t i
    core.merges = <Merge *>calloc(count, sizeof(Merge))
    if core.merges == NULL:
        return -ENOMEM
    for i in range(count):
        core.merges[i].next = core.free_merge
        core.free_merge = &core.merges[i]
    return 0


cdef void merges_close(Core *core) noexcept nogil:
    free(core.merges)
    core.merges = NULL
    core.free_merge = NULL


# ---------------------------------------------------------------- which pages

cdef bint merge_wanted(const BlockReq *req) noexcept nogil:
    return req.skip != 0 or req.cut != 0 or req.compare != NULL


cdef bint needed(const BlockReq *req, uint32_t which) noexcept nogil:
    """0 is the first page, 1 the last one when that is another."""
    if which == 1 and req.page_count == 1:
        return False
    if req.compare != NULL:
        return True
    if which == 0:
        return req.skip != 0 or (req.page_count == 1 and req.cut != 0)
    return req.cut != 0


cdef inline uint64_t page_of(const BlockReq *req, uint32_t which) noexcept nogil:
    return req.first_page + (req.page_count - 1 if which == 1 else 0)


cdef void set_base(Merge *merge, uint32_t which, Version *version) noexcept nogil:
    cdef uint8_t *page = version.data if version.data != NULL else merge.volume.reactor.pool.zero_page
    page_hold(&merge.volume.reactor.pool, page)
    if merge.base[which] != NULL:
        page_drop(&merge.volume.reactor.pool, merge.base[which])
    merge.base[which] = page


# ---------------------------------------------------------------- knowing the base

cdef Merge *take(BlockReq *req) noexcept nogil:
    cdef Volume *volume = req.volume
    cdef Core *core = <Core *>volume.reactor.core
    cdef Merge *merge = core.free_merge
    if merge == NULL:
        return NULL
    core.free_merge = merge.next
    merge.req = req
    merge.volume = volume
    merge.epoch = volume.term_epoch
    merge.start = volume.term_start
    merge.base[0] = NULL
    merge.base[1] = NULL
    merge.prev = NULL
    merge.next = volume.merges
    if volume.merges != NULL:
        volume.merges.prev = merge
    volume.merges = merge
    req.merge = merge
    return merge


cdef void merge_release(BlockReq *req) noexcept nogil:
    cdef Merge *merge = req.merge
    cdef Core *core
    cdef uint32_t which
    if merge == NULL:
        return
    core = <Core *>merge.volume.reactor.core
    req.merge = NULL
    for which in range(2):
        if merge.base[which] != NULL:
            page_drop(&core.reactor.pool, merge.base[which])
            merge.base[which] = NULL
    if merge.prev != NULL:
        merge.prev.next = merge.next
    else:
        merge.volume.merges = merge.next
    if merge.next != NULL:
        merge.next.prev = merge.prev
    merge.req = NULL
    merge.next = core.free_merge
    core.free_merge = merge


cdef MergeVerdict merge_prepare(
    BlockReq *req, void (*submit)(BlockReq *req) noexcept nogil, void (*refuse)(BlockReq *req, int rc) noexcept nogil
) noexcept nogil:
    cdef Volume *volume = req.volume
    cdef Core *core = <Core *>volume.reactor.core
    cdef Merge *merge = req.merge
    cdef Version *version
    cdef uint32_t which
    if merge != NULL and (merge.epoch != volume.term_epoch or merge.start != volume.term_start):
        merge_release(req)
        merge = NULL
    if merge == NULL:
        merge = take(req)
        if merge == NULL:
            return MERGE_FULL
    for which in range(2):
        if not needed(req, which) or merge.base[which] != NULL:
            continue
        version = dirty_find(core, volume, page_of(req, which), FOREVER)
        if version != NULL:
            set_base(merge, which, version)
            continue
        merge.submit = submit
        merge.refuse = refuse
        merge.reading = which
        merge.read.volume = volume
        merge.read.kind = REQ_READ
        merge.read.internal = False
        # Who may write may read; who may neither is refused here already.
        merge.read.nexus = req.nexus
        merge.read.first_page = page_of(req, which)
        merge.read.page_count = 1
        merge.read.done = on_read
        merge.read.owner = merge
        req.state = REQ_MERGING
        read_start(&merge.read)
        return MERGE_WAIT
    return MERGE_READY


cdef void on_read(BlockReq *read, int rc) noexcept nogil:
    cdef Merge *merge = <Merge *>read.owner
    cdef BlockReq *req = merge.req
    if merge.base[merge.reading] != NULL:
        # Applied meanwhile: what the flusher handed over is newer than what was, or could not be, read.
        if rc == 0:
            page_drop(&merge.volume.reactor.pool, read.pages[0])
        if rc == -EIO:
            rc = 0
    elif rc == 0:
        merge.base[merge.reading] = read.pages[0]
    if rc == 0 and req.taken_back:
        rc = -ECANCELED
    if rc != 0:
        merge.refuse(req, rc)
    else:
        # Begin again with the gate, for time has passed.
        merge.submit(req)


cdef void merge_refresh(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef Merge *merge = volume.merges
    cdef Version *version
    cdef uint32_t which
    while merge != NULL:
        for which in range(2):
            if needed(merge.req, which):
                version = dirty_find(core, volume, page_of(merge.req, which), lsn)
                if version != NULL:
                    set_base(merge, which, version)
        merge = merge.next


# ---------------------------------------------------------------- building upon it

cdef const uint8_t *under(BlockReq *req, uint32_t which, uint64_t *lsn) noexcept nogil:
    """The page as the log has it now, and the LSN of that version; 0 when it is in the extents."""
    cdef Volume *volume = req.volume
    cdef Version *version = dirty_find(<Core *>volume.reactor.core, volume, page_of(req, which), FOREVER)
    if version == NULL:
        lsn[0] = 0
        return req.merge.base[which]
    lsn[0] = version.lsn
    return version.data if version.data != NULL else volume.reactor.pool.zero_page


cdef void merge_fill(BlockReq *req) noexcept nogil:
    cdef const uint8_t *old
    cdef uint8_t *last = req.pages[req.page_count - 1]
    cdef uint64_t lsn = 0
    if req.skip != 0:
        old = under(req, 0, &lsn)
        memcpy(req.pages[0], old, req.skip)
    if req.cut != 0:
        old = under(req, 0 if req.page_count == 1 else 1, &lsn)
        memcpy(last + PAGE - req.cut, old + PAGE - req.cut, req.cut)


cdef bint merge_differs(BlockReq *req, uint32_t *at, uint64_t *lsn) noexcept nogil:
    cdef uint32_t length = req.page_count * PAGE - req.skip - req.cut
    cdef const uint8_t *old = NULL
    cdef uint64_t found = 0
    cdef uint32_t i, place
    cdef uint32_t which = 2
    lsn[0] = 0
    for i in range(length):
        place = req.skip + i
        if which != place // PAGE:
            which = place // PAGE
            old = under(req, which, &found)
            lsn[0] = max(lsn[0], found)
        if old[place % PAGE] != req.compare[i]:
            at[0] = i
            return True
    return False
