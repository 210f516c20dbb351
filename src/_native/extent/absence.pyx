"""Absence maps: one bit per 64 KiB that changed since a member was last in sync, kept on every in-sync replica.

Safety argument. A map says of a member: every page that an entry above `from_lsn` touched, and that is applied here,
lies in a granule with its bit set. It holds when a map begins, for `from_lsn` is then the applied LSN, and the round
under way, which is already writing what lies above it, is marked as a whole. It goes on to hold because the flusher is
the only one that applies entries, and marks the pages of a round before it writes the first of them. It survives a
crash because a round makes the blocks durable before the superblock says that its entries are applied: what is above
the applied LSN of the superblock is still in the log, is applied again and marks its pages again. A map is listed in
the superblock only after all its blocks were durable under its generation; before that a crash forgets it, and it
begins anew with a later `from_lsn`. So a map may say too much, never too little, on whichever replica becomes primary.

A member may be brought up to date from a map if and only if `from_lsn` is at or below the LSN up to which it is known
to hold everything (control/prepare.pyx decides that on the member). Entries that are logged here and not applied yet
are added when the map is used. What is not covered (another uuid, a damaged block, a map that began too late) is
rebuilt from everything.

Memory: one bit per 64 KiB for each of at most four members, 2 MiB per TiB, taken when a map begins.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Op
from sparrow._native.layout cimport (
    SP_ABSENCE_BLOCK_GRANULES, SP_ABSENCE_BLOCK_SIZE, SP_ABSENCE_FORMAT, SP_ABSENCE_GRANULE_PAGES, SP_ABSENCES_MAX,
    sp_absence_block, sp_absence_row,
)
from sparrow._native.pool cimport PAGE, page_drop, page_take
from sparrow._native.reactor cimport task_queue
from sparrow._native.sys cimport EIO, ENOMEM, calloc, free, malloc, memcmp, memcpy, memset, sp_crc32c
from sparrow._native.volume cimport NONE, Absence, Core, Version, Volume, Waiter

cdef enum:
    BITS_BYTES = SP_ABSENCE_BLOCK_GRANULES // 8


cdef inline sp_absence_row *row_of(Volume *volume, uint32_t at) noexcept nogil:
    return &(<sp_absence_row *>volume.super.now.absences)[at]


cdef bint is_zero(const uint8_t *uuid) noexcept nogil:
    cdef uint32_t i
    for i in range(16):
        if uuid[i] != 0:
            return False
    return True


# ---------------------------------------------------------------- life

cdef int absence_init(Volume *volume, int fd, const uint8_t *bits, uint64_t length) noexcept nogil:
    cdef Absence *absence
    cdef uint64_t known = blocks_of(volume.super.now.size_bytes // PAGE)
    cdef uint64_t size = known * BITS_BYTES
    cdef uint32_t i
    volume.absence_fd = fd
    volume.absence_blocks = blocks_of(max(volume.pages, volume.file_pages))
    volume.absence_page = page_take(&volume.reactor.pool)
    if volume.absence_page == NULL:
        return -ENOMEM
    for i in range(SP_ABSENCES_MAX):
        absence = &volume.absences[i]
        absence.generation = row_of(volume, i).generation
        if is_zero(row_of(volume, i).uuid):
            continue
        if length < size or not room_for_bits(volume, absence):
            return -ENOMEM
        memcpy(absence.uuid, row_of(volume, i).uuid, 16)
        memcpy(absence.bits, bits, size)
        # Behind the size of the checkpoint nothing was applied yet.
        memset(absence.stale, 0, known)
        absence.from_lsn = row_of(volume, i).from_lsn
        absence.listed = True
        absence.used = True
        absence.changed = count_bits(absence.bits, size)
        bits += size
        length -= size
    return 0


cdef uint64_t blocks_of(uint64_t pages) noexcept nogil:
    cdef uint64_t granules = (pages + SP_ABSENCE_GRANULE_PAGES - 1) // SP_ABSENCE_GRANULE_PAGES
    return (granules + SP_ABSENCE_BLOCK_GRANULES - 1) // SP_ABSENCE_BLOCK_GRANULES


cdef void absence_grow(Volume *volume, uint64_t pages) noexcept nogil:
    """Longer maps, their new blocks clear and newer than the disk. Without memory there are no maps any more, and their
    members are rebuilt from everything."""
    cdef uint64_t blocks = blocks_of(pages)
    cdef Absence *absence
    cdef uint8_t *bits
    cdef uint8_t *stale
    cdef uint32_t i
    if blocks <= volume.absence_blocks:
        return
    for i in range(SP_ABSENCES_MAX):
        absence = &volume.absences[i]
        if not absence.used:
            continue
        bits = <uint8_t *>calloc(blocks, BITS_BYTES)
        stale = <uint8_t *>malloc(blocks)
        if bits == NULL or stale == NULL:
            free(bits)
            free(stale)
            drop(volume, i)
            continue
        memcpy(bits, absence.bits, volume.absence_blocks * BITS_BYTES)
        memset(stale, 1, blocks)
        memcpy(stale, absence.stale, volume.absence_blocks)
        free(absence.bits)
        free(absence.stale)
        absence.bits = bits
        absence.stale = stale
    volume.absence_blocks = blocks


cdef void drop(Volume *volume, uint32_t at) noexcept nogil:
    """Out of memory, and out of the superblock with its next update."""
    forget(&volume.absences[at])
    memset(row_of(volume, at), 0, sizeof(sp_absence_row))
    row_of(volume, at).generation = volume.absences[at].generation


cdef uint64_t count_bits(const uint8_t *bits, uint64_t size) noexcept nogil:
    cdef uint64_t count = 0
    cdef uint64_t i
    cdef uint8_t byte
    for i in range(size):
        byte = bits[i]
        while byte != 0:
            byte &= byte - 1
            count += 1
    return count


cdef bint room_for_bits(Volume *volume, Absence *absence) noexcept nogil:
    """Bits all clear, every block newer than the disk."""
    absence.bits = <uint8_t *>calloc(volume.absence_blocks, BITS_BYTES)
    absence.stale = <uint8_t *>malloc(volume.absence_blocks)
    if absence.bits == NULL or absence.stale == NULL:
        forget(absence)
        return False
    memset(absence.stale, 1, volume.absence_blocks)
    return True


cdef void forget(Absence *absence) noexcept nogil:
    free(absence.bits)
    free(absence.stale)
    absence.bits = NULL
    absence.stale = NULL
    absence.used = False
    absence.listed = False
    absence.changed = 0


cdef void absence_free(Volume *volume) noexcept nogil:
    cdef uint32_t i
    for i in range(SP_ABSENCES_MAX):
        forget(&volume.absences[i])
    if volume.absence_page != NULL:
        page_drop(&volume.reactor.pool, volume.absence_page)
        volume.absence_page = NULL


cdef bint named(const uint8_t *uuids, uint32_t count, const uint8_t *uuid) noexcept nogil:
    cdef uint32_t i
    for i in range(count):
        if memcmp(uuids + 16 * i, uuid, 16) == 0:
            return True
    return False


cdef int absence_set(Volume *volume, const uint8_t *uuids, uint32_t count) noexcept nogil:
    cdef uint32_t i
    cdef int rc = 0
    for i in range(SP_ABSENCES_MAX):
        if volume.absences[i].used and not named(uuids, count, volume.absences[i].uuid):
            rc = 1
            drop(volume, i)
    for i in range(count):
        if absence_of(volume, uuids + 16 * i) == NULL and not begin(volume, uuids + 16 * i):
            rc = -ENOMEM
    task_queue(volume.reactor, &volume.flush.task)
    return rc


cdef bint begin(Volume *volume, const uint8_t *uuid) noexcept nogil:
    cdef Absence *absence = NULL
    cdef uint32_t i
    for i in range(SP_ABSENCES_MAX):
        if not volume.absences[i].used:
            absence = &volume.absences[i]
            break
    if absence == NULL or not room_for_bits(volume, absence):
        return False
    memcpy(absence.uuid, uuid, 16)
    absence.generation += 1
    absence.from_lsn = volume.applied_lsn
    absence.used = True
    # Listed by a round, which is due although there may be nothing to apply.
    volume.absence_due = True
    if volume.flush.stage != 0:
        absence_mark_round(volume)
    return True


cdef Absence *absence_of(Volume *volume, const uint8_t *uuid) noexcept nogil:
    cdef uint32_t i
    for i in range(SP_ABSENCES_MAX):
        if volume.absences[i].used and memcmp(volume.absences[i].uuid, uuid, 16) == 0:
            return &volume.absences[i]
    return NULL


# ---------------------------------------------------------------- bits

cdef void absence_mark(Volume *volume, uint64_t page) noexcept nogil:
    cdef uint64_t granule = page // SP_ABSENCE_GRANULE_PAGES
    cdef Absence *absence
    cdef uint32_t i
    for i in range(SP_ABSENCES_MAX):
        absence = &volume.absences[i]
        if not absence.used or absence.bits[granule // 8] >> (granule % 8) & 1:
            continue
        absence.bits[granule // 8] |= <uint8_t>(1 << (granule % 8))
        absence.stale[granule // SP_ABSENCE_BLOCK_GRANULES] = 1
        absence.changed += 1


cdef void absence_mark_round(Volume *volume) noexcept nogil:
    cdef uint64_t page
    cdef uint32_t i
    for i in range(volume.flush.count):
        absence_mark(volume, volume.flush.list[i].page)
    for i in range(volume.flush.span_count):
        page = volume.spans[i].first_page
        while page < volume.spans[i].end_page:
            absence_mark(volume, page)
            page = (page // SP_ABSENCE_GRANULE_PAGES + 1) * SP_ABSENCE_GRANULE_PAGES


cdef uint8_t *absence_changed(Volume *volume, const uint8_t *uuid, uint64_t from_lsn) noexcept nogil:
    cdef Version *versions = (<Core *>volume.reactor.core).dirty.versions
    cdef Absence *absence = absence_of(volume, uuid)
    cdef uint32_t at = volume.fifo_head
    cdef uint64_t granule, page
    cdef uint8_t *copy
    cdef uint32_t i
    if absence == NULL or absence.from_lsn > from_lsn:
        return NULL
    copy = <uint8_t *>malloc(volume.absence_blocks * BITS_BYTES)
    if copy == NULL:
        return NULL
    memcpy(copy, absence.bits, volume.absence_blocks * BITS_BYTES)
    while at != NONE:
        granule = versions[at].page // SP_ABSENCE_GRANULE_PAGES
        copy[granule // 8] |= <uint8_t>(1 << (granule % 8))
        at = versions[at].fifo_next
    for i in range(volume.span_count):
        page = volume.spans[i].first_page
        while page < volume.spans[i].end_page:
            granule = page // SP_ABSENCE_GRANULE_PAGES
            copy[granule // 8] |= <uint8_t>(1 << (granule % 8))
            page = (granule + 1) * SP_ABSENCE_GRANULE_PAGES
    return copy


# ---------------------------------------------------------------- to the disk

cdef bint next_stale(Volume *volume, uint32_t *row, uint64_t *block) noexcept nogil:
    cdef Absence *absence
    cdef uint64_t n
    cdef uint32_t i
    for i in range(SP_ABSENCES_MAX):
        absence = &volume.absences[i]
        if not absence.used:
            continue
        for n in range(volume.absence_blocks):
            if absence.stale[n]:
                row[0] = i
                block[0] = n
                return True
    return False


cdef bint absence_stale(Volume *volume) noexcept nogil:
    cdef uint32_t row
    cdef uint64_t block
    return next_stale(volume, &row, &block)


cdef void absence_write(Volume *volume, Waiter *waiter) noexcept nogil:
    volume.absence_waiter = waiter
    volume.absence_op.owner = volume
    write_next(volume)


cdef void write_next(Volume *volume) noexcept nogil:
    """One block after the other: a round touches few, for one covers two gigabytes."""
    cdef sp_absence_block *image = <sp_absence_block *>volume.absence_page
    cdef Absence *absence
    cdef uint64_t seed[3]
    cdef uint64_t block = 0
    cdef uint32_t row = 0
    if not next_stale(volume, &row, &block):
        volume.absence_op.done = on_synced
        volume.reactor.io.datasync(&volume.reactor.io, &volume.absence_op, volume.absence_fd)
        return
    absence = &volume.absences[row]
    absence.stale[block] = 0
    memset(image, 0, SP_ABSENCE_BLOCK_SIZE)
    image.format = <uint32_t>SP_ABSENCE_FORMAT
    image.block = block
    image.generation = absence.generation
    memcpy(image.bits, absence.bits + block * BITS_BYTES, BITS_BYTES)
    seed[0] = volume.key
    seed[1] = absence.generation
    seed[2] = block
    image.check = sp_crc32c(sp_crc32c(0, seed, 24), image, SP_ABSENCE_BLOCK_SIZE)
    volume.absence_iov.iov_base = image
    volume.absence_iov.iov_len = PAGE
    volume.absence_op.done = on_written
    volume.reactor.io.write(
        &volume.reactor.io, &volume.absence_op, volume.absence_fd, &volume.absence_iov, 1,
        (block * SP_ABSENCES_MAX + row) * PAGE, False,
    )


cdef void on_written(Op *op, int32_t res) noexcept nogil:
    cdef Volume *volume = <Volume *>op.owner
    cdef uint32_t i
    if res != PAGE:
        for i in range(SP_ABSENCES_MAX):
            if volume.absences[i].used:
                memset(volume.absences[i].stale, 1, volume.absence_blocks)
        volume.absence_waiter.wake(volume.absence_waiter, res if res < 0 else -EIO)
        return
    write_next(volume)


cdef void on_synced(Op *op, int32_t res) noexcept nogil:
    cdef Volume *volume = <Volume *>op.owner
    volume.absence_waiter.wake(volume.absence_waiter, res if res < 0 else 0)


cdef void absence_list(Volume *volume) noexcept nogil:
    """Called with the checkpoint: a map that began after the blocks were written has stale ones and waits."""
    cdef Absence *absence
    cdef sp_absence_row *row
    cdef uint64_t n
    cdef uint32_t i
    cdef bint whole
    volume.absence_due = False
    for i in range(SP_ABSENCES_MAX):
        absence = &volume.absences[i]
        if not absence.used or absence.listed:
            continue
        whole = True
        for n in range(volume.absence_blocks):
            if absence.stale[n]:
                whole = False
        if not whole:
            volume.absence_due = True
            continue
        row = row_of(volume, i)
        memcpy(row.uuid, absence.uuid, 16)
        row.from_lsn = absence.from_lsn
        row.generation = absence.generation
        absence.listed = True
