"""Group commit: entries of one turn share a batch, a batch is one gather write, and the durable LSN is a prefix.

A batch closes at the end of the turn while fewer than `writes_max` writes are out, else when one of them completes, so
batches grow with load and no timer is needed. Nothing is copied: the write gathers the header page and the payload
pages, and peers are sent the same pages.

Safety argument for the prefix: `durable_lsn` moves over an unbroken run of completed writes only, so a later batch that
completes first is not counted; `durable_floor` in each header is that value at submission, which is what recovery
relies on to tell a torn tail from damage. A follower submits a batch only when its own durable LSN has reached the
floor in the header, else a crash could leave a header whose floor is a lie on that disk. One that catches up writes
batches together nevertheless, where its superblock says that their floors say nothing (joint.pyx).
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t

from sparrow._native.crc cimport crc_page, crc_page_but_8, crc_page_head
from sparrow._native.extent.dirty cimport dirty_add, dirty_zero
from sparrow._native.layout cimport (
    SP_BATCH_BYTES_MAX, SP_BATCH_HEADER_BLOCKS_MAX, SP_BATCH_PAGES_MAX, SP_BATCH_ZEROS_MAX, SP_ENTRY_RESIZE,
    SP_ENTRY_TABLE, SP_ENTRY_TERM_START, SP_TABLE_PAGES,
    SP_ENTRY_WRITE, SP_ENTRY_ZERO, SP_WAL_BATCH_SIZE, SP_WAL_ENTRY_SIZE, SP_WAL_FORMAT, SP_WAL_MAGIC, sp_wal_batch,
    sp_wal_entry,
)
from sparrow._native.pool cimport PAGE, page_hold
from sparrow._native.reactor cimport Task, now_boot, task_queue
from sparrow._native.reservations cimport table_logged
from sparrow._native.resize cimport resize_logged
from sparrow._native.sys cimport EIO, ENOMEM, calloc, free, memcpy, memset, sp_assert, sp_crc32c
from sparrow._native.volume cimport PEERS_MAX, TERMS_MAX, Core, Log, MemBatch, Rec, Volume
from sparrow._native.wal.batches cimport batch_drop, batch_keep, batch_let_go, batch_take, batches_open
from sparrow._native.wal.condemn cimport condemn
from sparrow._native.wal.durable cimport durable_open, durable_write
from sparrow._native.wal.joint cimport joint_takes, joint_write

cdef uint64_t NOWHERE = <uint64_t>-1


cdef int logs_open(Core *core, uint32_t batches, uint32_t share_from, int flush_fd) noexcept nogil:
    durable_open(core, share_from, flush_fd, on_batch_durable)
    return batches_open(core, batches)


# ---------------------------------------------------------------- index

cdef int log_open(Volume *volume, int fd, uint64_t base, uint64_t ring_bytes, uint32_t writes_max) noexcept nogil:
    cdef Log *log = &volume.log
    memset(log, 0, sizeof(Log))
    log.fd = fd
    log.base = base
    log.bytes = ring_bytes
    # The smallest batch is a header block alone (a term start).
    log.room = <uint32_t>(ring_bytes // BLOCK) + 2
    log.recs = <Rec *>calloc(log.room, sizeof(Rec))
    if log.recs == NULL:
        return -ENOMEM
    log.writes_max = writes_max
    volume.log_task.run = run_log
    volume.log_task.owner = volume
    return 0


cdef void log_close(Volume *volume) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef MemBatch *batch
    cdef Rec *rec
    # Never written, because the replica was condemned.
    if volume.log.open != NULL:
        batch_drop(core, volume.log.open)
        volume.log.open = NULL
    while volume.log.waiting != NULL:
        batch = volume.log.waiting
        volume.log.waiting = batch.next
        batch_drop(core, batch)
    while volume.log.window_first < volume.log.next:
        rec = log_rec(volume, volume.log.window_first)
        if rec.mem != NULL:
            batch_let_go(core, volume, rec)
        volume.log.window_first += 1
    free(volume.log.recs)
    volume.log.recs = NULL


cdef Rec *log_rec(Volume *volume, uint64_t sequence) noexcept nogil:
    return &volume.log.recs[sequence % volume.log.room]


cdef uint64_t log_find(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef uint64_t low = volume.log.first
    cdef uint64_t high = volume.log.next
    cdef uint64_t middle
    while low < high:
        middle = (low + high) // 2
        if log_rec(volume, middle).first_lsn < lsn:
            low = middle + 1
        else:
            high = middle
    if low < volume.log.next and log_rec(volume, low).first_lsn == lsn:
        return low
    return NOWHERE


cdef uint64_t log_age(Volume *volume, uint64_t lsn, uint64_t now) noexcept nogil:
    cdef uint64_t at
    cdef Rec *rec
    if lsn >= volume.log.head_lsn:
        return 0
    at = log_find(volume, lsn + 1)
    if at == NOWHERE:
        at = volume.log.first
    rec = log_rec(volume, at)
    return now - rec.closed_ns if rec.closed_ns != 0 and now > rec.closed_ns else 0


cdef bint log_check_at(Volume *volume, uint64_t lsn, uint32_t *check) noexcept nogil:
    cdef uint64_t at
    if lsn == volume.log.tail_lsn:
        check[0] = volume.log.tail_check
        return True
    if lsn == volume.log.head_lsn:
        check[0] = volume.log.head_check
        return True
    at = log_find(volume, lsn + 1)
    if at == NOWHERE:
        return False
    check[0] = log_rec(volume, at).parent
    return True


cdef void log_add_term(Volume *volume, uint64_t epoch, uint64_t start, uint64_t first_lsn) noexcept nogil:
    """Add a row when the term is new; the oldest row goes when the table is full."""
    cdef Log *log = &volume.log
    cdef uint32_t n = log.term_count
    cdef uint32_t i
    if n > 0 and log.terms[n - 1].epoch == epoch and log.terms[n - 1].start == start:
        return
    if n == TERMS_MAX:
        for i in range(TERMS_MAX - 1):
            log.terms[i] = log.terms[i + 1]
        n -= 1
    log.terms[n].epoch = epoch
    log.terms[n].start = start
    log.terms[n].first_lsn = first_lsn
    log.term_count = n + 1


cdef Rec *log_index(Volume *volume, const sp_wal_batch *head, uint64_t offset) noexcept nogil:
    cdef Log *log = &volume.log
    cdef Rec *rec
    sp_assert(log.next - log.first < log.room, b"the index holds every batch the ring can")
    rec = log_rec(volume, log.next)
    log.next += 1
    rec.first_lsn = head.first_lsn
    rec.last_lsn = head.first_lsn + head.entry_count - 1
    rec.offset = offset
    rec.bytes = (head.header_blocks + head.page_count) * BLOCK
    rec.check = head.check
    rec.parent = head.parent
    rec.epoch = head.term_epoch
    rec.start = head.term_start
    rec.closed_ns = 0
    rec.durable = False
    rec.damaged = False
    rec.mem = NULL
    rec.zeros = zeros_of(head)
    if log.next - log.first == 1:
        log.tail_offset = offset
    log.head_lsn = rec.last_lsn
    log.head_check = rec.check
    log.head_offset = offset + rec.bytes
    log_add_term(volume, rec.epoch, rec.start, rec.first_lsn)
    return rec


cdef uint32_t zeros_of(const sp_wal_batch *head) noexcept nogil:
    cdef const sp_wal_entry *entries = <const sp_wal_entry *>(<const uint8_t *>head + SP_WAL_BATCH_SIZE)
    cdef uint32_t zeros = 0
    cdef uint32_t i
    for i in range(head.entry_count):
        zeros += entries[i].kind == SP_ENTRY_ZERO
    return zeros


cdef uint32_t batch_tables(const sp_wal_batch *head) noexcept nogil:
    cdef const sp_wal_entry *entries = <const sp_wal_entry *>(<const uint8_t *>head + SP_WAL_BATCH_SIZE)
    cdef uint32_t tables = 0
    cdef uint32_t i
    for i in range(head.entry_count):
        tables += entries[i].kind == SP_ENTRY_TABLE
    return tables


cdef void log_forget_to(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef Log *log = &volume.log
    cdef Core *core = <Core *>volume.reactor.core
    cdef Rec *rec
    while log.first < log.next:
        rec = log_rec(volume, log.first)
        if rec.last_lsn > lsn:
            break
        if rec.mem != NULL:
            batch_let_go(core, volume, rec)
        log.tail_lsn = rec.last_lsn
        log.tail_check = rec.check
        log.first += 1
        if log.window_first < log.first:
            log.window_first = log.first
    log.tail_offset = log_rec(volume, log.first).offset if log.first < log.next else log.head_offset


cdef void log_cut_index(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef Log *log = &volume.log
    cdef Core *core = <Core *>volume.reactor.core
    cdef Rec *rec
    sp_assert(log.writes == 0 and log.open == NULL and log.waiting == NULL, b"a log is cut when nothing is under way")
    while log.next > log.first:
        rec = log_rec(volume, log.next - 1)
        if rec.last_lsn <= lsn:
            break
        sp_assert(rec.first_lsn > lsn, b"a log is cut between batches")
        if rec.mem != NULL:
            batch_let_go(core, volume, rec)
        log.head_offset = rec.offset
        log.head_lsn = rec.first_lsn - 1
        log.head_check = rec.parent
        log.next -= 1
    if log.window_first > log.next:
        log.window_first = log.next
    if log.durable_lsn > log.head_lsn:
        log.durable_lsn = log.head_lsn
    while log.term_count > 0 and log.terms[log.term_count - 1].first_lsn > log.head_lsn:
        log.term_count -= 1
    sp_assert(log.head_lsn == lsn, b"a cut ends where it was asked to")


# ---------------------------------------------------------------- space

cdef uint64_t log_free_bytes(Volume *volume) noexcept nogil:
    cdef Log *log = &volume.log
    if log.free_lsn == log.head_lsn:
        return log.bytes
    return (log.free_floor + log.bytes - log.head_offset) % log.bytes


cdef bint log_room(Volume *volume) noexcept nogil:
    # A batch that does not fit before the end of the ring wastes less than its own size; one more stays free so that a
    # full ring can never be taken for an empty one.
    return log_free_bytes(volume) >= 3 * SP_BATCH_BYTES_MAX


cdef bint log_room_start(Volume *volume) noexcept nogil:
    # A term start must fit even into a log that is full for everybody else, or the log could never be emptied: nothing
    # commits before it does, on this replica or on the one that waits for its ack.
    return log_free_bytes(volume) >= 4 * BLOCK


cdef bint log_room_received(Volume *volume, const sp_wal_batch *head) noexcept nogil:
    cdef const sp_wal_entry *entry = <const sp_wal_entry *>(<const uint8_t *>head + SP_WAL_BATCH_SIZE)
    if head.entry_count == 1 and entry.kind == SP_ENTRY_TERM_START:
        return log_room_start(volume)
    # The batch and what it wastes at the end of the ring are less than two of the largest; a term start fits after it.
    return log_free_bytes(volume) >= 2 * SP_BATCH_BYTES_MAX + 16 * BLOCK


cdef uint64_t log_place(Volume *volume, uint32_t size) noexcept nogil:
    return volume.log.head_offset if volume.log.head_offset + size <= volume.log.bytes else 0


# ---------------------------------------------------------------- primary: append and close

cdef uint64_t log_append(Volume *volume, uint8_t kind, uint64_t first_page, uint32_t count, uint8_t **pages) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef Log *log = &volume.log
    cdef MemBatch *batch = log.open
    cdef uint32_t payload = count if kind == SP_ENTRY_WRITE or kind == SP_ENTRY_TABLE else 0
    cdef uint32_t zeros = 1 if kind == SP_ENTRY_ZERO else 0
    cdef uint32_t i, n
    cdef uint64_t lsn
    if batch != NULL and (
        batch.zero_count + zeros > SP_BATCH_ZEROS_MAX
        or batch.page_count + payload > SP_BATCH_PAGES_MAX
        or SP_WAL_BATCH_SIZE + (batch.entry_count + 1) * SP_WAL_ENTRY_SIZE + (batch.page_count + payload) * 4 > BLOCK
    ):
        if log.writes >= log.writes_max:
            return 0
        close_open(volume)
        batch = log.open
    if batch == NULL:
        if not log_room(volume) and (kind != SP_ENTRY_TERM_START or not log_room_start(volume)):
            return 0
        batch = batch_take(core, volume)
        if batch == NULL:
            return 0
        log.open = batch
    n = batch.entry_count
    batch.entry_kind[n] = kind
    batch.first_page[n] = first_page
    batch.entry_pages[n] = count
    batch.entry_count = n + 1
    batch.zero_count += zeros
    lsn = log.head_lsn + batch.entry_count
    for i in range(payload):
        n = batch.page_count + i
        batch.pages[n] = pages[i]
        page_hold(&volume.reactor.pool, pages[i])
        batch.sums[n] = crc_page(pages[i])
        if kind == SP_ENTRY_TABLE:
            continue
        page_hold(&volume.reactor.pool, pages[i])
        dirty_add(core, volume, first_page + i, lsn, pages[i], batch.sums[n])
    batch.page_count += payload
    if zeros != 0:
        dirty_zero(volume, first_page, count, lsn)
    elif kind == SP_ENTRY_RESIZE:
        resize_logged(volume, lsn, first_page)
    elif kind == SP_ENTRY_TABLE:
        table_logged(volume, lsn, pages)
    task_queue(volume.reactor, &volume.log_task)
    return lsn


cdef void encode_head(Volume *volume, MemBatch *batch) noexcept nogil:
    cdef sp_wal_batch *head = <sp_wal_batch *>batch.header
    cdef sp_wal_entry *entry
    cdef uint32_t i
    memset(head, 0, BLOCK)
    head.magic = SP_WAL_MAGIC
    head.format = <uint16_t>SP_WAL_FORMAT
    head.feature_level = 1
    head.volume_key = volume.key
    head.term_epoch = volume.term_epoch
    head.term_start = volume.term_start
    head.first_lsn = volume.log.head_lsn + 1
    head.durable_floor = volume.log.durable_lsn
    head.commit_lsn = volume.commit_lsn
    head.parent = volume.log.head_check
    head.entry_count = batch.entry_count
    head.page_count = batch.page_count
    head.header_blocks = 1
    for i in range(batch.entry_count):
        entry = <sp_wal_entry *>(batch.header + SP_WAL_BATCH_SIZE + i * SP_WAL_ENTRY_SIZE)
        entry.kind = batch.entry_kind[i]
        entry.page_count = batch.entry_pages[i]
        if entry.kind == SP_ENTRY_TABLE:
            head.feature_level = 2
        if entry.kind == SP_ENTRY_RESIZE:
            entry.aux = batch.first_page[i] * PAGE
        else:
            entry.first_page = batch.first_page[i]
    i = SP_WAL_BATCH_SIZE + batch.entry_count * SP_WAL_ENTRY_SIZE
    memcpy(batch.header + i, batch.sums, 4 * batch.page_count)
    head.check = crc_page_head(head, i + 4 * batch.page_count)


cdef void write_batch(Volume *volume, MemBatch *batch, Rec *rec) noexcept nogil:
    """One gather write; neighbouring pages share an iovec."""
    cdef uint32_t count
    cdef uint32_t i
    batch.iov[0].iov_base = batch.header
    batch.iov[0].iov_len = BLOCK
    count = 1
    for i in range(batch.page_count):
        if <uint8_t *>batch.iov[count - 1].iov_base + batch.iov[count - 1].iov_len == batch.pages[i]:
            batch.iov[count - 1].iov_len += PAGE
        else:
            batch.iov[count].iov_base = batch.pages[i]
            batch.iov[count].iov_len = PAGE
            count += 1
    volume.log.writes += 1
    volume.stats.batches += 1
    durable_write(batch, count, log_at(volume, rec.offset))


cdef void close_open(Volume *volume) noexcept nogil:
    """Give the open batch its header and place, write it, hand it to the peers."""
    cdef Log *log = &volume.log
    cdef MemBatch *batch = log.open
    cdef Rec *rec
    cdef int i
    log.open = NULL
    encode_head(volume, batch)
    batch.rec = log.next
    rec = log_index(
        volume, <sp_wal_batch *>batch.header, log_place(volume, (1 + batch.page_count) * BLOCK)
    )
    rec.closed_ns = now_boot(volume.reactor)
    batch_keep(volume, batch, rec)
    write_batch(volume, batch, rec)
    for i in range(PEERS_MAX):
        if volume.peers[i] != NULL and volume.peers[i].ship != NULL:
            task_queue(volume.reactor, &volume.peers[i].ship.task)


cdef void run_log(Task *task) noexcept nogil:
    cdef Volume *volume = <Volume *>task.owner
    cdef Log *log = &volume.log
    cdef MemBatch *batch
    if volume.condemned:
        return
    if log.open != NULL and log.writes < log.writes_max:
        close_open(volume)
    while log.waiting != NULL:
        if joint_takes(volume, log.waiting):
            if not joint_write(volume, on_batch_durable):
                break
            continue
        if (<sp_wal_batch *>log.waiting.header).durable_floor > log.durable_lsn:
            break
        batch = log.waiting
        log.waiting = batch.next
        if log.waiting == NULL:
            log.waiting_tail = NULL
        batch.next = NULL
        write_batch(volume, batch, log_rec(volume, batch.rec))


cdef void on_batch_durable(MemBatch *batch, int32_t res) noexcept nogil:
    cdef Volume *volume = batch.volume
    cdef Log *log = &volume.log
    cdef Rec *rec = log_rec(volume, batch.rec)
    cdef uint64_t at
    log.writes -= 1
    if volume.quiet_waiters != NULL:
        task_queue(volume.reactor, &volume.quiet_task)
    if res != <int32_t>rec.bytes:
        # A short write is as bad as none: what is on disk now is not a batch, and O_DIRECT gives no reason to expect one.
        condemn(volume, 1, res if res < 0 else -EIO)
        batch_drop(<Core *>volume.reactor.core, batch)
        return
    rec.durable = True
    # As a rule it is the next one.
    at = batch.rec if rec.first_lsn == log.durable_lsn + 1 else log_first_undurable(volume)
    while at < log.next and log_rec(volume, at).durable:
        log.durable_lsn = log_rec(volume, at).last_lsn
        at += 1
    batch_drop(<Core *>volume.reactor.core, batch)
    task_queue(volume.reactor, &volume.commit_task)
    task_queue(volume.reactor, &volume.log_task)
    if volume.follow != NULL:
        task_queue(volume.reactor, &volume.follow.task)
    if not volume.primary and volume.commit_lsn >= log.durable_lsn:
        # Its commit was heard before: as a rule that comes later, and has the flusher look.
        task_queue(volume.reactor, &volume.flush.task)


cdef uint64_t log_first_undurable(Volume *volume) noexcept nogil:
    """Sequence of the batch after the durable prefix.

    It is near the end as a rule, and thousands of batches before it where a follower catches up: steps from the end that
    double, then halves of the last one.
    """
    cdef Log *log = &volume.log
    cdef uint64_t low = log.next
    cdef uint64_t high = log.next
    cdef uint64_t step = 1
    cdef uint64_t middle
    while low > log.first and log_rec(volume, low - 1).last_lsn > log.durable_lsn:
        high = low - 1
        low -= min(step, low - log.first)
        step *= 2
    # What lies before `low` is durable, what lies from `high` on is not.
    while low < high:
        middle = (low + high) // 2
        if log_rec(volume, middle).last_lsn > log.durable_lsn:
            high = middle
        else:
            low = middle + 1
    return low


# ---------------------------------------------------------------- follower: take over a received batch

cdef void log_take(Volume *volume, MemBatch *batch) noexcept nogil:
    cdef Core *core = <Core *>volume.reactor.core
    cdef Log *log = &volume.log
    cdef sp_wal_batch *head = <sp_wal_batch *>batch.header
    cdef const uint8_t *at = batch.header + SP_WAL_BATCH_SIZE
    cdef const sp_wal_entry *entry
    cdef const uint32_t *sums
    cdef Rec *rec
    cdef uint32_t i, k
    cdef uint32_t page = 0
    sp_assert(
        head.first_lsn == log.head_lsn + 1 and head.parent == log.head_check, b"a taken batch continues the log"
    )
    batch.rec = log.next
    rec = log_index(volume, head, log_place(volume, (head.header_blocks + head.page_count) * BLOCK))
    rec.closed_ns = now_boot(volume.reactor)
    sums = <const uint32_t *>(at + head.entry_count * SP_WAL_ENTRY_SIZE)
    for i in range(head.entry_count):
        entry = <const sp_wal_entry *>(at + i * SP_WAL_ENTRY_SIZE)
        if entry.kind == SP_ENTRY_ZERO:
            dirty_zero(volume, entry.first_page, entry.page_count, head.first_lsn + i)
        elif entry.kind == SP_ENTRY_RESIZE:
            resize_logged(volume, head.first_lsn + i, entry.aux // PAGE)
        elif entry.kind == SP_ENTRY_TABLE:
            table_logged(volume, head.first_lsn + i, &batch.pages[page])
            page += entry.page_count
        if entry.kind != SP_ENTRY_WRITE:
            continue
        for k in range(entry.page_count):
            page_hold(&volume.reactor.pool, batch.pages[page])
            dirty_add(core, volume, entry.first_page + k, head.first_lsn + i, batch.pages[page], sums[page])
            page += 1
    batch.next = NULL
    if log.waiting_tail == NULL:
        log.waiting = batch
    else:
        log.waiting_tail.next = batch
    log.waiting_tail = batch
    task_queue(volume.reactor, &volume.log_task)


cdef bint head_valid(uint64_t volume_key, const uint8_t *blocks, uint32_t have) noexcept nogil:
    """Conditions 1 and 2 of formats/wal.py; `have` bytes are there, at least one block."""
    cdef const sp_wal_batch *head = <const sp_wal_batch *>blocks
    cdef const sp_wal_entry *entry
    cdef uint64_t need
    cdef uint32_t zero = 0
    cdef uint32_t i, pages = 0
    if (
        head.magic != SP_WAL_MAGIC
        or head.format != SP_WAL_FORMAT
        or head.volume_key != volume_key
        or head.header_blocks < 1
        or head.header_blocks > SP_BATCH_HEADER_BLOCKS_MAX
        or head.page_count > SP_BATCH_PAGES_MAX
        or head.entry_count < 1
        or head.entry_count > 256
        or head.first_lsn == 0
        or head.header_blocks * BLOCK > have
    ):
        return False
    need = SP_WAL_BATCH_SIZE + <uint64_t>head.entry_count * SP_WAL_ENTRY_SIZE + <uint64_t>head.page_count * 4
    if need > head.header_blocks * BLOCK:
        return False
    if head.header_blocks == 1:
        if head.check != crc_page_but_8(blocks):
            return False
    elif head.check != sp_crc32c(
        sp_crc32c(sp_crc32c(0, blocks, 8), &zero, 4), blocks + 12, head.header_blocks * BLOCK - 12
    ):
        return False
    for i in range(head.entry_count):
        entry = <const sp_wal_entry *>(blocks + SP_WAL_BATCH_SIZE + i * SP_WAL_ENTRY_SIZE)
        if entry.kind == SP_ENTRY_WRITE:
            pages += entry.page_count
        elif entry.kind == SP_ENTRY_TABLE:
            if entry.page_count != SP_TABLE_PAGES:
                return False
            pages += entry.page_count
    return pages == head.page_count
