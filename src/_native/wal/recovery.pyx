"""Recovery: walk the chain of batches, then say whether what follows its end is a torn tail or damage.

    next batch                                                             decision
    whole, parent and LSN follow, term not older                           accept
    else, a whole header of the last term or a newer one within the in-flight window
      says with its durable_floor that the missing LSN was durable         damage
    else, applied LSN or an accepted header's commit LSN covers it         damage
    else, the LSNs up to the applied one are missing                       damage behind the checkpoint: go on there
    else                                                                   torn tail: end of log

Safety argument. A torn batch was never durable here, so this replica never acknowledged it: cutting it loses nothing
that was promised. A batch that had been durable must not be cut in silence, for it may be committed: any of three
witnesses proves it, and each is written only after the fact (the floor in a later header, a commit LSN, the applied
LSN). Damage does not end the replica: its log ends before the damage, it is `suspect`, and the LSN it must reach again
is told to whoever opens or joins the volume, who fetches the identical bytes from a peer or refuses.

Damage between the tail and the applied LSN costs this replica nothing: all of that is in the extents, and the log kept
it for peers. The superblock names where the batch after the applied LSN begins and the checksum it must name as its
parent, so the chain is taken up there as safely as at the tail; what lies before is let go, and a peer that wants it is
rebuilt.

What is applied is not read at all where nobody can want it. Who opens the replica knows from the newest line acted on
that every member is in sync, under a policy that waits for all of them (`unwanted`): what is applied here was committed,
so it is on the disk of each of them, and whoever leaves the set later lacks only what comes later. And the superblock
says that no zero entry there has place to give back (`given_back`, extent/punch.pyx). Were either wrong no data would be
lost: the extents have it, and a replica that asks for what is gone is copied to. So a start after a load takes as long as
what is left to apply, not as long as the logs.

How far is looked. Batches lie one behind the other. While the missing batch was being written at most `writes_max - 1`
others were, and the batch that was submitted when it had become durable says so in its floor: its header begins behind
the missing batch and those, so within `writes_max` batches of the largest size, and one more for what the end of the
ring left unused. A batch that others overtook may have more than those behind it that do not say so yet. But they are
whole, and each whole header of what was missing or came later makes the search go on as far behind it again. So nothing
ends the search early but a stretch of that length in which no batch is whole; and where nothing ever followed, as
behind the log of a volume that rests, it ends there, which is a third of the eight batches that were read before.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.crc cimport crc_page
from sparrow._native.extent.behind cimport behind_found
from sparrow._native.extent.dirty cimport dirty_add, dirty_zero, dirty_zero_room
from sparrow._native.extent.punch cimport punch_hint
from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_BATCH_BYTES_MAX, SP_ENTRY_RESIZE, SP_ENTRY_TABLE, SP_ENTRY_WRITE, SP_ENTRY_ZERO, SP_STATE_CLEAN,
    SP_STATE_REBUILDING, SP_TABLE_PAGES, SP_WAL_BATCH_SIZE, SP_WAL_ENTRY_SIZE, SP_WAL_MAGIC, sp_superblock,
    sp_wal_batch, sp_wal_entry,
)
from sparrow._native.pool cimport PAGE, page_take
from sparrow._native.reservations cimport table_logged
from sparrow._native.resize cimport resize_logged, resize_room
from sparrow._native.sys cimport EFBIG, EIO, ENOMEM, ENOSPC, memcpy
from sparrow._native.volume cimport Core, Log, Rec, TermStart, Volume, Waiter, Walk
from sparrow._native.wal.joint cimport joint_proves
from sparrow._native.wal.log cimport BLOCK, batch_tables, head_valid, log_at, log_index
from sparrow._native.wal.windows cimport WALK_BYTES, window_drop, window_take

cdef enum:
    FIRST_BYTES = 262144          # read first: most logs end soon after their tail, and a node may open hundreds

cdef uint64_t NOWHERE = <uint64_t>-1


cdef void recover(Volume *volume, Waiter *waiter) noexcept nogil:
    cdef Walk *walk = &volume.walk
    volume.torn_after = NOWHERE
    volume.damaged_after = NOWHERE
    volume.let_go_to = 0
    walk.done = waiter
    if was_emptied(volume.super.now):
        finish(volume, 0)
        return
    walk.window = window_take(<Core *>volume.reactor.core)
    if walk.window == NULL:
        finish(volume, -ENOMEM)
        return
    walk.looking = False
    walk.floor_seen = 0
    walk.commit_seen = 0
    if applied_unwanted(volume):
        begin_at_applied(volume)
    else:
        begin_at(volume, volume.log.tail_offset)


cdef bint applied_unwanted(const Volume *volume) noexcept nogil:
    """Is the part of the log that is applied of no use, here or to a replica that returns?"""
    cdef const sp_superblock *now = volume.super.now
    return volume.walk.unwanted and now.given_back != 0 and now.state == SP_STATE_CLEAN and not volume.suspect


cdef void begin_at(Volume *volume, uint64_t offset) noexcept nogil:
    cdef Walk *walk = &volume.walk
    walk.offset = offset
    walk.wrapped = False
    if offset + BLOCK > volume.log.bytes:
        # The log was empty when it ended with the ring: the next batch went to its start.
        walk.wrapped = True
        walk.offset = 0
    read_at(volume, walk.offset, FIRST_BYTES)


cdef bint was_emptied(const sp_superblock *now) noexcept nogil:
    """Was the log let go of for a rebuild that has not begun (control/prepare.pyx)?

    It begins anew with LSN 0 and no checksum to follow, as that of a new volume did: in a ring that never went round the
    first batch of all would follow it again, and with it every entry of the old log.
    """
    return now.state == SP_STATE_REBUILDING and now.base_lsn == 0 and now.tail_lsn == 0 and now.applied_lsn == 0


cdef void read_at(Volume *volume, uint64_t offset, uint32_t wanted) noexcept nogil:
    cdef Walk *walk = &volume.walk
    walk.from_offset = offset
    walk.have = 0
    walk.iov.iov_base = walk.window
    walk.iov.iov_len = min(<uint64_t>wanted, volume.log.bytes - offset)
    walk.op.done = on_window
    walk.op.owner = volume
    volume.reactor.io.read(&volume.reactor.io, &walk.op, volume.log.fd, &walk.iov, 1, log_at(volume, offset))


cdef void on_window(Op *op, int32_t res) noexcept nogil:
    cdef Volume *volume = <Volume *>op.owner
    cdef Walk *walk = &volume.walk
    if res < 0 or res % BLOCK != 0 or res == 0:
        finish(volume, res if res < 0 else -EIO)
        return
    walk.have = <uint32_t>res
    if walk.looking:
        look_on(volume)
    else:
        walk_on(volume)


cdef bint follows(Volume *volume, const sp_wal_batch *head) noexcept nogil:
    """Conditions 3 and 4 of formats/wal.py."""
    cdef Log *log = &volume.log
    return head.first_lsn == log.head_lsn + 1 and head.parent == log.head_check and not_older(log, head)


cdef bint not_older(const Log *log, const sp_wal_batch *head) noexcept nogil:
    if log.term_count == 0:
        return True
    if head.term_epoch != log.terms[log.term_count - 1].epoch:
        return head.term_epoch > log.terms[log.term_count - 1].epoch
    return head.term_start >= log.terms[log.term_count - 1].start


cdef bint payload_whole(const sp_wal_batch *head, const uint8_t *pages) noexcept nogil:
    """Condition 5."""
    cdef const uint32_t *sums = <const uint32_t *>(
        <const uint8_t *>head + SP_WAL_BATCH_SIZE + head.entry_count * SP_WAL_ENTRY_SIZE
    )
    cdef uint32_t i
    for i in range(head.page_count):
        if crc_page(pages + <uint64_t>i * PAGE) != sums[i]:
            return False
    return True


cdef bint all_asked(const Volume *volume) noexcept nogil:
    """Was as much of the ring asked for as is ever read at once? A batch that is not whole in that is none."""
    cdef const Walk *walk = &volume.walk
    return walk.iov.iov_len == min(<uint64_t>WALK_BYTES, volume.log.bytes - walk.from_offset)


cdef void walk_on(Volume *volume) noexcept nogil:
    cdef Walk *walk = &volume.walk
    cdef Log *log = &volume.log
    cdef const uint8_t *at
    cdef const sp_wal_batch *head
    cdef uint64_t left
    cdef uint32_t size
    cdef int rc
    while True:
        left = walk.from_offset + walk.have - walk.offset
        if walk.offset + BLOCK <= log.bytes and left < BLOCK:
            read_at(volume, walk.offset, WALK_BYTES)
            return
        if walk.offset + BLOCK <= log.bytes:
            at = walk.window + (walk.offset - walk.from_offset)
            head = <const sp_wal_batch *>at
            if head_valid(volume.key, at, BLOCK) and follows(volume, head):
                size = (1 + head.page_count) * BLOCK
                if walk.offset + size <= log.bytes:
                    if left < size:
                        if walk.offset == walk.from_offset and all_asked(volume):
                            finish(volume, -EIO)
                            return
                        read_at(volume, walk.offset, WALK_BYTES)
                        return
                    if head.first_lsn + head.entry_count - 1 <= volume.applied_lsn or payload_whole(head, at + BLOCK):
                        rc = accept(volume, head, at + BLOCK)
                        if rc < 0:
                            finish(volume, rc)
                            return
                        walk.offset = log.head_offset
                        walk.wrapped = False
                        continue
        if not walk.wrapped and walk.offset != 0:
            # A batch that does not fit before the end of the ring begins at its start.
            # Its header tells whether there is one; the rest is read when there is.
            walk.wrapped = True
            walk.offset = 0
            read_at(volume, 0, BLOCK)
            return
        break
    if log.head_lsn < volume.applied_lsn:
        volume.let_go_to = volume.applied_lsn
        begin_at_applied(volume)
        return
    walk.looking = True
    walk.looked = 0
    walk.look_to = look_bytes(volume)
    read_at(volume, log.head_offset if log.head_offset + BLOCK <= log.bytes else 0, to_look(volume))


cdef void begin_at_applied(Volume *volume) noexcept nogil:
    cdef Log *log = &volume.log
    cdef Walk *walk = &volume.walk
    cdef const sp_superblock *now = volume.super.now
    cdef const TermStart *rows = <const TermStart *>&now.terms[0]
    cdef uint32_t i
    # The space stays taken until the superblock names the new tail: nothing is logged before, for a join and the start of
    # a term write it first.
    log.first = log.next
    log.window_first = log.next
    log.head_lsn = log.tail_lsn = log.durable_lsn = now.applied_lsn
    log.head_check = log.tail_check = now.applied_check
    log.head_offset = log.tail_offset = now.applied_offset
    log.term_count = 0
    for i in range(now.term_rows):
        if rows[i].first_lsn <= now.applied_lsn:
            log.terms[log.term_count] = rows[i]
            log.term_count += 1
    volume.super.now.tail_lsn = log.tail_lsn
    volume.super.now.tail_check = log.tail_check
    volume.super.now.tail_offset = log.tail_offset
    begin_at(volume, log.head_offset)


cdef int accept(Volume *volume, const sp_wal_batch *head, const uint8_t *pages) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef Walk *walk = &volume.walk
    cdef const sp_wal_entry *entry
    cdef const uint32_t *sums
    cdef uint8_t *page
    cdef uint8_t *table[4]
    cdef Rec *rec
    cdef uint32_t i, k
    cdef uint32_t n = 0
    rec = log_index(volume, head, walk.offset)
    rec.durable = True
    volume.log.durable_lsn = rec.last_lsn
    walk.commit_seen = max(walk.commit_seen, head.commit_lsn)
    if rec.last_lsn <= volume.applied_lsn:
        # Its pages are zeros already; whether their place was given back nobody wrote down.
        for i in range(head.entry_count if rec.zeros != 0 else 0):
            entry = <const sp_wal_entry *>(<const uint8_t *>head + SP_WAL_BATCH_SIZE + i * SP_WAL_ENTRY_SIZE)
            if entry.kind == SP_ENTRY_ZERO:
                punch_hint(volume, entry.first_page, entry.page_count, head.first_lsn + i)
        return 0
    sums = <const uint32_t *>(<const uint8_t *>head + SP_WAL_BATCH_SIZE + head.entry_count * SP_WAL_ENTRY_SIZE)
    if not behind_found(core, volume, head.page_count - SP_TABLE_PAGES * batch_tables(head)):
        # Beside what other volumes have there now, or at all? What was taken so far is let go of, so that of several
        # that are opened at one time and find no room none waits for another.
        return -ENOSPC if core.dirty.used > volume.version_count else -EFBIG
    if not dirty_zero_room(volume, rec.zeros):
        return -EIO
    for i in range(head.entry_count):
        entry = <const sp_wal_entry *>(<const uint8_t *>head + SP_WAL_BATCH_SIZE + i * SP_WAL_ENTRY_SIZE)
        if entry.kind == SP_ENTRY_ZERO:
            dirty_zero(volume, entry.first_page, entry.page_count, head.first_lsn + i)
        elif entry.kind == SP_ENTRY_RESIZE:
            if entry.aux // PAGE > volume.file_pages or not resize_room(volume, 1):
                return -EIO
            resize_logged(volume, head.first_lsn + i, entry.aux // PAGE)
        elif entry.kind == SP_ENTRY_TABLE:
            for k in range(SP_TABLE_PAGES):
                table[k] = <uint8_t *>pages + <uint64_t>(n + k) * PAGE
            table_logged(volume, head.first_lsn + i, table)
            n += SP_TABLE_PAGES
        if entry.kind != SP_ENTRY_WRITE:
            continue
        for k in range(entry.page_count):
            page = page_take(&volume.reactor.pool)
            if page == NULL:
                return -ENOMEM
            memcpy(page, pages + <uint64_t>n * PAGE, PAGE)
            dirty_add(core, volume, entry.first_page + k, head.first_lsn + i, page, sums[n])
            n += 1
    return 0


cdef uint64_t look_bytes(const Volume *volume) noexcept nogil:
    """How far behind a place the proof that what was written there had been durable can begin, its header included."""
    return (volume.log.writes_max + 1) * <uint64_t>SP_BATCH_BYTES_MAX + BLOCK


cdef uint32_t to_look(const Volume *volume) noexcept nogil:
    """How much more of the ring is to be looked through, as far as it is read at once; 0 when all was."""
    cdef uint64_t end = min(volume.walk.look_to, volume.log.bytes)
    return <uint32_t>min(<uint64_t>WALK_BYTES, end - volume.walk.looked if end > volume.walk.looked else 0)


cdef void look_on(Volume *volume) noexcept nogil:
    """Look through the in-flight window for a header that proves that the missing LSN had been durable."""
    cdef Walk *walk = &volume.walk
    cdef Log *log = &volume.log
    cdef const sp_wal_batch *head
    cdef uint32_t at = 0
    cdef uint64_t missing = log.head_lsn + 1
    cdef uint64_t next_offset
    if walk.looked == 0:
        # Only for the report: something of this volume was begun where the log ends, with the next LSN in its header.
        head = <const sp_wal_batch *>walk.window
        walk.torn_seen = head.magic == SP_WAL_MAGIC and head.volume_key == volume.key and head.first_lsn == missing
    while at + BLOCK <= walk.have:
        head = <const sp_wal_batch *>(walk.window + at)
        if head_valid(volume.key, walk.window + at, BLOCK) and head.first_lsn >= missing and not_older(log, head):
            walk.look_to = max(walk.look_to, walk.looked + at + (1 + head.page_count) * BLOCK + look_bytes(volume))
        # A newer term counts too: its first batch may be the damaged one. A cut leaves no header of such a term behind.
        if (
            head_valid(volume.key, walk.window + at, BLOCK)
            and joint_proves(volume.super.now, head.durable_floor) >= missing
            and not_older(log, head)
        ):
            walk.floor_seen = max(walk.floor_seen, joint_proves(volume.super.now, head.durable_floor))
        at += BLOCK
    walk.looked += walk.have
    next_offset = (walk.from_offset + walk.have) % log.bytes
    if to_look(volume) != 0:
        read_at(volume, next_offset, to_look(volume))
        return
    log.must_reach = max(walk.floor_seen, max(walk.commit_seen, volume.applied_lsn))
    if log.must_reach > log.head_lsn:
        volume.damaged_after = log.head_lsn
        volume.suspect = True
    elif walk.torn_seen:
        volume.torn_after = log.head_lsn
    volume.commit_lsn = min(max(walk.commit_seen, volume.applied_lsn), log.head_lsn)
    finish(volume, 0)


cdef void finish(Volume *volume, int rc) noexcept nogil:
    cdef Walk *walk = &volume.walk
    cdef Waiter *waiter = walk.done
    recover_free(volume)
    walk.done = NULL
    volume.log.window_first = volume.log.next
    waiter.wake(waiter, rc)


cdef void recover_free(Volume *volume) noexcept nogil:
    if volume.walk.window != NULL:
        window_drop(<Core *>volume.reactor.core, volume.walk.window)
        volume.walk.window = NULL
