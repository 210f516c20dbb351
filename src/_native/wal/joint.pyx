"""A follower that is far behind writes batches together: one write and one flush for as many as fit.

A batch says in its header what had been durable on the primary when it was submitted (`durable_floor`), and a header
with that floor is proof of damage where the entry is missing (recovery.pyx). So a follower may not have it on its disk
before it has made as much durable itself, and batches that were written one after the other are one flush each. A
follower that was away has thousands of them to take, and nobody waits for any single one.

So its superblock names a range: of entries in (joint_from, joint_to] no floor below joint_to says anything on this
disk. While both copies say so, batches of that range are written in the order in which they came but without waiting
for floors, neighbours in the ring in one gather write.

Safety argument. (1) Nothing that a crash leaves is taken for damage. Joint writes are made only while all up to
joint_from is durable, and only of batches that end at or below joint_to, so a header that lies has a floor in
(joint_from, joint_to) and is about entries above joint_from; recovery takes such a floor for joint_from. What a crash
left in the ring behind the end of the log goes on lying, so the range stays until all of it is durable: then the same
batches, for all up to joint_to had committed, lie in the same places. (2) No damage is overlooked that matters. A floor
at or above joint_to is true, because such a header is no part of a joint write, and so is one at or below joint_from.
Of what lies between only the word of this disk is missing, and nobody was given it: while a superblock copy may name a
range, an LSN is acknowledged only if it is below what the primary told to be committed. Such an entry had committed
without this replica, and a replica that has acknowledged no more is not yet one of those that commits count on or that
may lead: it becomes one when it has all that was committed when it was asked in, so not before the range is gone from
both copies and every floor counts again. Under ack=quorum it may be in the set while it lags: then two others hold the
entry. One that an operator makes the primary nevertheless, of a history that ended within the range, would write
entries of its own term that lie in it; so a term that begins is reported as begun, and clients are let in, only when
both copies are rid of the range (`joint_owed`; the start of the term is durable then, which ends it). That binds the
next process as well: nothing comes by a link, and no term begins, before it has written both copies (`follow` in
control/dispatch.pyx). So a replica that dies between the two copies of the update that forgets the range, loses the
newer one, and has rot in the range may take that for a torn tail: its word was given to nobody. It is suspect as well,
with one copy. (3) What is acknowledged is the durable prefix as ever: a write that ends well made all its batches
durable, and one that fails ends the replica.

A range that reaches beyond what the primary of the link calls committed is left of a history that an operator gave up
(`volume recover --from-stale`). It goes when the log has an entry of the link's term, or of the own one, durable:
recovery believes no header of an older term from then on. Until then nothing of it is written together.

A batch that waits was received by a link whose primary's log this one continued, and `commit_lsn` has reached it only
since, by that link or by a header that came by it: at the join it was not above the end of the log. So "committed"
needs no link, and a log that is to be quiet for a fence or for closing, whose link is gone, is written together to its
end as well. Never on a primary: of what it adopts and appends every floor is to count.

A rebuild does not do this: its log is short, and what it waits for are pages.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport SP_BATCH_BYTES_MAX, SP_STATE_CLEAN, sp_superblock
from sparrow._native.pool cimport PAGE
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport EIO, sp_assert
from sparrow._native.volume cimport Core, Follow, Joint, Log, MemBatch, Rec, TermStart, Volume, Waiter
from sparrow._native.wal.superblock cimport super_write

cdef enum:
    WRITES = 4                # gather writes under way; all but one only when they are large
    WAITING = 16              # batches that wait, before a range is named


cdef void joint_init(Volume *volume) noexcept nogil:
    # What the older superblock copy says is not known here, and need not be.
    volume.joint.from_lsn = 0
    volume.joint.to_lsn = 0
    volume.joint.waiter.wake = on_marked
    volume.joint.waiter.owner = volume


cdef uint64_t joint_proves(const sp_superblock *now, uint64_t floor) noexcept nogil:
    return now.joint_from if now.joint_from < floor < now.joint_to else floor


# ---------------------------------------------------------------- the range

cdef bint own_term(const Volume *volume, uint64_t epoch, uint64_t start) noexcept nogil:
    """Is the newest durable entry of this term? Headers of older ones count no more then."""
    cdef const Log *log = &volume.log
    cdef const TermStart *last
    if log.term_count == 0:
        return False
    last = &log.terms[log.term_count - 1]
    return last.epoch == epoch and last.start == start and log.durable_lsn >= last.first_lsn


cdef bint over(const Volume *volume) noexcept nogil:
    """Does nothing in the ring lie any more, whatever the power does?"""
    cdef const Follow *follow = volume.follow
    cdef uint64_t end = volume.super.now.joint_to
    if volume.joint.under_way > 0:
        return False
    if volume.log.durable_lsn >= end:
        return True
    if volume.primary:
        return own_term(volume, volume.term_epoch, volume.term_start)
    # A link that was told nothing yet says nothing: headers of its own term, from an earlier link, may lie in the ring.
    return (
        follow != NULL and 0 < follow.told_lsn < end and volume.log.durable_lsn >= follow.told_lsn
        and own_term(volume, follow.epoch, follow.start)
    )


cdef bint many_wait(const Volume *volume) noexcept nogil:
    """Do so many batches wait for floors that one flush for all is worth two updates of the superblock?

    Batches that are large by themselves, as under load, are not held up by a flush each: two at a time fill a disk.
    """
    cdef const MemBatch *batch = volume.log.waiting
    cdef uint32_t wanted = min(<uint32_t>WAITING, (<const Core *>volume.reactor.core).joint_lsns)
    while batch != NULL and wanted > 0:
        batch = batch.next
        wanted -= 1
    return wanted == 0


cdef bint far_behind(const Volume *volume) noexcept nogil:
    return (
        volume.follow != NULL and not volume.primary and volume.super.now.state == SP_STATE_CLEAN
        and volume.follow.told_lsn >= volume.log.head_lsn + (<const Core *>volume.reactor.core).joint_lsns
        and many_wait(volume)
    )


cdef void joint_settle(Volume *volume) noexcept nogil:
    if volume.super.now.joint_to != 0 and not volume.joint.asking and over(volume):
        joint_forget(volume)


cdef bint joint_owed(Volume *volume) noexcept nogil:
    joint_settle(volume)
    return volume.super.now.joint_to != volume.joint.to_lsn


cdef void joint_forget(Volume *volume) noexcept nogil:
    volume.super.now.joint_from = 0
    volume.super.now.joint_to = 0


cdef void joint_look(Volume *volume) noexcept nogil:
    cdef sp_superblock *now = volume.super.now
    cdef Joint *joint = &volume.joint
    if joint.asking or volume.condemned or volume.closing or volume.suspect:
        # That a superblock copy was lost is not to be forgotten before a join, which writes both.
        return
    joint_settle(volume)
    if now.joint_to == 0 and far_behind(volume):
        now.joint_from = volume.log.durable_lsn
        now.joint_to = volume.follow.told_lsn
    if now.joint_to != joint.to_lsn:
        joint.asking = True
        super_write(volume, &joint.waiter)


cdef void on_marked(Waiter *waiter, int rc) noexcept nogil:
    cdef Volume *volume = <Volume *>waiter.owner
    volume.joint.asking = False
    task_queue(volume.reactor, &volume.log_task)
    if volume.follow != NULL:
        task_queue(volume.reactor, &volume.follow.task)


cdef uint64_t joint_told(const Volume *volume) noexcept nogil:
    cdef const Follow *follow = volume.follow
    cdef uint64_t durable = volume.log.durable_lsn
    # What either copy may name: the range that both had last, or the one that is being written.
    cdef uint64_t end = max(volume.joint.to_lsn, volume.super.now.joint_to)
    return durable if end == 0 or durable < follow.told_lsn else follow.acked_lsn


# ---------------------------------------------------------------- writing

cdef inline const Rec *rec_of(const Volume *volume, const MemBatch *batch) noexcept nogil:
    return &volume.log.recs[batch.rec % volume.log.room]


cdef bint joint_takes(const Volume *volume, const MemBatch *batch) noexcept nogil:
    cdef const Joint *joint = &volume.joint
    return (
        joint.to_lsn != 0 and volume.super.now.joint_to == joint.to_lsn and not volume.primary
        and volume.super.now.state == SP_STATE_CLEAN and volume.log.durable_lsn >= joint.from_lsn
        and rec_of(volume, batch).last_lsn <= min(joint.to_lsn, volume.commit_lsn)
    )


cdef bint joint_write(Volume *volume, batch_done done) noexcept nogil:
    cdef Log *log = &volume.log
    cdef MemBatch *first = log.waiting
    cdef MemBatch *last = NULL
    cdef MemBatch *batch = first
    cdef const Rec *rec
    cdef uint64_t offset = rec_of(volume, first).offset
    cdef uint32_t size = 0
    cdef uint32_t pieces = 0
    cdef uint32_t count = 0
    if volume.joint.under_way >= WRITES:
        return False
    while batch != NULL and joint_takes(volume, batch):
        rec = rec_of(volume, batch)
        # At the end of the ring the next one begins elsewhere.
        if rec.offset != offset + size or (last != NULL and size + rec.bytes > <uint32_t>SP_BATCH_BYTES_MAX):
            break
        size += rec.bytes
        count += 1
        last = batch
        batch = batch.next
    if volume.joint.under_way > 0 and batch == NULL and size < <uint32_t>SP_BATCH_BYTES_MAX // 2:
        # It grows until the one before it is done.
        return False
    log.waiting = batch
    if batch == NULL:
        log.waiting_tail = NULL
    last.next = NULL
    batch = first
    while batch != NULL:
        pieces = gather(first, batch, pieces)
        batch = batch.next
    sp_assert(pieces * <uint64_t>PAGE <= SP_BATCH_BYTES_MAX, b"a joint write fits the vector of its first batch")
    log.writes += count
    volume.stats.batches += count
    volume.joint.under_way += 1
    first.result = <int32_t>size
    volume.joint.done = <void *>done
    first.op.owner = first
    first.op.done = on_written
    volume.reactor.io.write(&volume.reactor.io, &first.op, volume.log.fd, first.iov, pieces, log.base + offset, True)
    return True


cdef uint32_t gather(MemBatch *first, const MemBatch *batch, uint32_t pieces) noexcept nogil:
    """Add a batch to the vector of the first; neighbouring pages share a piece."""
    cdef uint8_t *page
    cdef uint32_t i
    for i in range(1 + batch.page_count):
        page = batch.header if i == 0 else batch.pages[i - 1]
        if pieces != 0 and <uint8_t *>first.iov[pieces - 1].iov_base + first.iov[pieces - 1].iov_len == page:
            first.iov[pieces - 1].iov_len += PAGE
            continue
        first.iov[pieces].iov_base = page
        first.iov[pieces].iov_len = PAGE
        pieces += 1
    return pieces


cdef void on_written(Op *op, int32_t res) noexcept nogil:
    cdef MemBatch *batch = <MemBatch *>op.owner
    cdef Volume *volume = batch.volume
    cdef batch_done done = <batch_done>volume.joint.done
    cdef MemBatch *following
    cdef int rc = 0
    if res != batch.result:
        rc = res if res < 0 else -EIO
    volume.joint.under_way -= 1
    while batch != NULL:
        following = batch.next
        batch.next = NULL
        done(batch, rc if rc < 0 else <int32_t>rec_of(volume, batch).bytes)
        batch = following
