"""A frontend without a protocol: Python submits requests to a core that is stepped in the same thread, and looks
inside.

It does what a session does, no more: pages from the pool, ``block_submit``, a second look at the gate before the answer
leaves, and requests that die with whoever sent them. Answers come up as mail of a command; besides the LSN of a write
they name the term that answers for it and what was committed by then. For the simulator; never beside a running reactor
thread.
"""

from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport uint8_t, uint32_t, uint64_t, uintptr_t

from sparrow._native.block cimport block_abort, block_submit
from sparrow._native.events cimport done_up
from sparrow._native.gate cimport gate_is_open
from sparrow._native.layout cimport SP_RESERVATION_REGISTRANT_SIZE
from sparrow._native.pool cimport PAGE, page_drop, page_spare, page_take
from sparrow._native.reservations cimport MAY_READ, nexus_may, nexus_set
from sparrow._native.sys cimport EPERM, ESTALE, calloc, free, malloc, memcpy
from sparrow._native.volume cimport REQ_FLUSH, REQ_READ, REQ_WRITE, REQ_ZERO, BlockReq, Core, Nexus, Volume
from sparrow._native.wal.log cimport log_check_at

KINDS = {"read": REQ_READ, "write": REQ_WRITE, "flush": REQ_FLUSH, "zero": REQ_ZERO}


cdef struct Call:
    BlockReq req
    Core *core
    uint64_t token
    Call *next
    Call *prev
    Nexus nexus


cdef uint64_t term_of(const Volume *volume, uint64_t lsn) noexcept nogil:
    """Epoch and start, 32 bits each, of the term whose entry this is; of the newest one for 0."""
    cdef uint32_t i = volume.log.term_count
    while i > 0:
        i -= 1
        if lsn == 0 or volume.log.terms[i].first_lsn <= lsn:
            return volume.log.terms[i].epoch << 32 | volume.log.terms[i].start
    return 0


cdef void on_done(BlockReq *req, int rc) noexcept nogil:
    cdef Call *call = <Call *>req.owner
    cdef uint8_t *data = NULL
    cdef uint64_t length = 0
    cdef uint64_t lsn
    cdef uint32_t i
    if req.kind == REQ_READ and rc == 0:
        length = <uint64_t>req.page_count * PAGE
        data = <uint8_t *>malloc(length)
        for i in range(req.page_count):
            memcpy(data + <uint64_t>i * PAGE, req.pages[i], PAGE)
            page_drop(&call.core.reactor.pool, req.pages[i])
    if rc == 0 and not req.internal and not gate_is_open(req.volume):
        # Never data, never a good answer, while this replica may not serve (front/iscsi/send.pyx).
        free(data)
        data = NULL
        length = 0
        rc = -ESTALE
    elif rc == 0 and req.kind == REQ_READ and not req.internal and not nexus_may(req.volume, req.nexus, MAY_READ):
        free(data)
        data = NULL
        length = 0
        rc = -EPERM
    lsn = req.lsn if rc == 0 and (req.kind == REQ_WRITE or req.kind == REQ_ZERO) else 0
    done_up(call.core.reactor, call.token, rc, lsn, term_of(req.volume, lsn), req.volume.commit_lsn, data, length)
    call.prev.next = call.next
    if call.next != NULL:
        call.next.prev = call.prev
    free(call)


cdef class Direct:
    """The frontend of one core."""

    cdef Core *core
    cdef Call first            # head of the list of calls under way

    def __cinit__(self, uintptr_t core):
        self.core = <Core *>core
        self.first.next = NULL

    def submit(
        self, uint32_t volume, uint64_t token, str kind, uint64_t first_page=0, uint32_t count=0, bytes data=b"", *,
        uint32_t skip=0, uint32_t cut=0, bint internal=False, bytes nexus=b"",
    ):
        """Start a request; its answer is a command's, with this token. False: not even begun.

        A write leaves alone ``skip`` bytes of its first page and ``cut`` bytes of its last one.
        """
        cdef Volume *where = self.core.volumes[volume]
        cdef Call *call
        cdef uint32_t i
        if where == NULL or not where.opened:
            return False
        if kind == "write" and not page_spare(&self.core.reactor.pool, count):
            return False
        call = <Call *>calloc(1, sizeof(Call))
        call.core = self.core
        call.token = token
        call.req.volume = where
        call.req.kind = KINDS[kind]
        call.req.first_page = first_page
        call.req.page_count = count
        call.req.skip = skip
        call.req.cut = cut
        call.req.internal = internal
        if nexus:
            assert len(nexus) == SP_RESERVATION_REGISTRANT_SIZE, "a nexus is a whole record"
            nexus_set(&call.nexus, <const uint8_t *>PyBytes_AS_STRING(nexus))
            call.req.nexus = &call.nexus
        call.req.done = on_done
        call.req.owner = call
        for i in range(count if kind == "write" else 0):
            call.req.pages[i] = page_take(&self.core.reactor.pool)
            memcpy(call.req.pages[i], <const uint8_t *>PyBytes_AS_STRING(data) + <uint64_t>i * PAGE, PAGE)
        call.prev = &self.first
        call.next = self.first.next
        if call.next != NULL:
            call.next.prev = call
        self.first.next = call
        with nogil:
            block_submit(&call.req)
        return True

    def abort_all(self):
        """The connection ends: requests without an LSN are taken back. Gives how many could not be."""
        cdef Call *call = self.first.next
        cdef Call *following
        cdef uint32_t left = 0
        while call != NULL:
            following = call.next
            if not block_abort(&call.req):
                left += 1
            call = following
        return left

    def abort(self, uint64_t token):
        """One request is taken back, unless it has an LSN; False when it could not be, or has its answer already."""
        cdef Call *call = self.first.next
        while call != NULL:
            if call.token == token:
                return block_abort(&call.req)
            call = call.next
        return False

    def forget(self):
        """The process died: nobody answers any more."""
        cdef Call *call
        while self.first.next != NULL:
            call = self.first.next
            self.first.next = call.next
            free(call)

    # what is inside

    def look(self, uint32_t volume):
        """(serves, applied, commit, durable, head, primary, epoch, state, condemned, suspect) or None."""
        cdef Volume *where = self.core.volumes[volume]
        if where == NULL or not where.opened:
            return None
        return (
            gate_is_open(where), where.applied_lsn, where.commit_lsn, where.log.durable_lsn, where.log.head_lsn,
            where.primary, where.super.now.promised_epoch, where.super.now.state, where.condemned, where.suspect,
        )

    def serves(self, uint32_t volume):
        """Whether a read that came now would be answered."""
        cdef Volume *where = self.core.volumes[volume]
        return where != NULL and where.opened and gate_is_open(where)

    def terms_ended(self, uint32_t volume):
        """How many terms of this replica are over; -1 when it is not open."""
        cdef Volume *where = self.core.volumes[volume]
        return -1 if where == NULL or not where.opened else <int>where.terms_ended

    def terms(self, uint32_t volume):
        """The table of terms: (epoch, start, first LSN) of each, oldest first; the last 48 that have entries."""
        cdef Volume *where = self.core.volumes[volume]
        cdef uint32_t i
        if where == NULL or not where.opened:
            return []
        return [
            (where.log.terms[i].epoch, where.log.terms[i].start, where.log.terms[i].first_lsn)
            for i in range(where.log.term_count)
        ]

    def check_at(self, uint32_t volume, uint64_t lsn):
        """Checksum of the batch that ends at this LSN, None when it is not in the log."""
        cdef Volume *where = self.core.volumes[volume]
        cdef uint32_t check = 0
        if where == NULL or not where.opened or not log_check_at(where, lsn, &check):
            return None
        return check

    def tail_lsn(self, uint32_t volume):
        """The newest LSN that was let go of."""
        return self.core.volumes[volume].log.tail_lsn

    def free_floor(self, uint32_t volume):
        """The offset in the log up to which new batches may overwrite old ones."""
        return self.core.volumes[volume].log.free_floor
