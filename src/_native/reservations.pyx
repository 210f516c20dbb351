"""Reservations are log state: a table entry replaces the whole table, and fails over with the data like any other.

Which table counts. `volume.table` is the newest *logged* one, and commands are checked against it in the turn in which
they get their LSN. So a write has an LSN below that of the table that forbids it, and commits before that table does
and before its change is answered; or it is refused. Checked at arrival, or against the newest committed table, a write
that a closed gate, a full log or a read for a merge holds up could slip in behind a PREEMPT that was answered. A READ
is checked when its view is taken, and again when its answer is built.

A refusal may rest on a table that a failover cuts off again. That is allowed: the change was under way, and a nexus
that is refused for it sees what it would have seen had its command come a moment later. The other way round nothing is
allowed that a committed table forbids, for no committed table is ever cut.

The chain. From `volume.table` back by `older` lie all tables a cut could make the newest again, and the one of the
checkpoint, which is the oldest. A cut never goes below what is applied, so never below that one.

The checkpoint. The log may let go of a table entry when recovery finds its table elsewhere: in one of two slots in the
superblock's file, named with LSN and checksum by the superblock. Order: the table of the round's target goes durably to
the slot that is not named; then the superblock names it together with the applied LSN; then the tail moves over space
that may be used again. Whatever instant the power goes, the copy of the superblock that counts names a slot that was
durable before it was written and that nobody touches until the next round, which begins when both copies name the new
one. Recovery takes the slot, then the tables of the walk above the applied LSN.

A slot that does not match its checksum is a table lost: what it forbade nobody knows, so the replica is not opened, as
one without a whole superblock is not. One that was being rebuilt begins its rebuild from nothing instead.

A replica that is rebuilt gets the newest committed table before its log begins. That may be newer than where its log
begins; the log brings that entry again, which changes nothing, and until it has, the replica counts as not rebuilt.

The control side is told of each table that has committed, in order, on every replica.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.events cimport EVENT_RESERVATIONS, event_data_up
from sparrow._native.layout cimport (
    SP_RESERVATION_BYTES, SP_RESERVATION_EXCLUSIVE_ACCESS, SP_RESERVATION_EXCLUSIVE_ACCESS_AR,
    SP_RESERVATION_EXCLUSIVE_ACCESS_RO, SP_RESERVATION_HEADER_SIZE, SP_RESERVATION_MAGIC, SP_RESERVATION_NONE,
    SP_RESERVATION_REGISTRANT_AT_IDENTIFIER, SP_RESERVATION_REGISTRANT_AT_KIND, SP_RESERVATION_REGISTRANT_AT_NAME_LEN,
    SP_RESERVATION_NO_HOLDER, SP_RESERVATION_REGISTRANT_SIZE, SP_RESERVATION_REGISTRANTS_MAX, SP_RESERVATION_VERSION,
    SP_RESERVATION_WRITE_EXCLUSIVE, SP_RESERVATION_WRITE_EXCLUSIVE_AR, SP_RESERVATION_WRITE_EXCLUSIVE_RO,
    SP_TABLE_PAGES, SP_TABLE_SLOTS_OFFSET, sp_reservation_header,
)
from sparrow._native.pool cimport PAGE
from sparrow._native.sys cimport calloc, free, malloc, memcmp, memcpy, sp_assert, sp_crc32c
from sparrow._native.volume cimport Nexus, Table, Volume

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef enum:
    FEATURE_LEVEL_TABLES = 2


# ---------------------------------------------------------------- the chain

cdef Table *table_new(uint64_t lsn) noexcept nogil:
    cdef Table *table = <Table *>calloc(1, sizeof(Table))
    if table == NULL:
        return NULL
    table.lsn = lsn
    # Its slot is written past the page cache.
    table.blob = <uint8_t *>aligned_alloc(PAGE, SP_RESERVATION_BYTES)
    if table.blob == NULL:
        free(table)
        return NULL
    return table


cdef void table_discard(Table *table) noexcept nogil:
    if table != NULL:
        free(table.blob)
        free(table)


cdef void newest_is(Volume *volume, Table *table) noexcept nogil:
    volume.table = table
    volume.table_serial += 1
    volume.reserved = table != NULL and (<sp_reservation_header *>table.blob).type != SP_RESERVATION_NONE


cdef void table_logged(Volume *volume, uint64_t lsn, uint8_t **pages) noexcept nogil:
    cdef Table *table
    cdef uint32_t i
    if lsn <= table_lsn(volume):
        return
    table = table_new(lsn)
    sp_assert(table != NULL, b"no memory for a table of reservations")
    for i in range(SP_TABLE_PAGES):
        memcpy(table.blob + <uint64_t>i * PAGE, pages[i], PAGE)
    table.check = sp_crc32c(0, table.blob, SP_RESERVATION_BYTES)
    table.older = volume.table
    newest_is(volume, table)


cdef uint64_t table_lsn(const Volume *volume) noexcept nogil:
    return 0 if volume.table == NULL else volume.table.lsn


cdef Table *table_at(const Volume *volume, uint64_t lsn) noexcept nogil:
    cdef Table *table = volume.table
    while table != NULL and table.lsn > lsn:
        table = table.older
    return table


cdef uint32_t tables_above(const Volume *volume, uint64_t lsn) noexcept nogil:
    cdef const Table *table = volume.table
    cdef uint32_t count = 0
    while table != NULL and table.lsn > lsn:
        count += 1
        table = table.older
    return count


cdef bint table_valid(const uint8_t *blob) noexcept nogil:
    """What the check of commands relies on; the rest is the control side's."""
    cdef const sp_reservation_header *head = <const sp_reservation_header *>blob
    return (
        head.magic == SP_RESERVATION_MAGIC
        and head.version == SP_RESERVATION_VERSION
        and head.count <= SP_RESERVATION_REGISTRANTS_MAX
        and (head.holder < head.count or head.holder == SP_RESERVATION_NO_HOLDER)
    )


cdef void table_cut(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef Table *table
    # That of the checkpoint stays: it is applied, or one that a rebuild began with, which is committed.
    while volume.table != NULL and volume.table.lsn > lsn and volume.table.lsn != volume.super.now.table_lsn:
        table = volume.table
        newest_is(volume, table.older)
        table_discard(table)
    volume.table_told = min(volume.table_told, table_lsn(volume))


cdef void let_go(Volume *volume, Table *table) noexcept nogil:
    """This one and all that are older."""
    cdef Table *older
    while table != NULL:
        older = table.older
        table_discard(table)
        table = older


cdef void table_forget(Volume *volume) noexcept nogil:
    cdef Table *table = volume.table
    newest_is(volume, NULL)
    let_go(volume, table)
    volume.table_told = 0
    # The slot stays the one in use, so that the next table goes to the other.
    volume.super.now.table_lsn = 0
    volume.super.now.table_check = 0


cdef void table_tell(Volume *volume) noexcept nogil:
    cdef Table *table
    cdef Table *next_one
    cdef uint8_t *copy
    while table_lsn(volume) > volume.table_told:
        # The oldest of those it was not told of; there are few.
        table = NULL
        next_one = volume.table
        while next_one != NULL and next_one.lsn > volume.table_told:
            table = next_one
            next_one = next_one.older
        if table.lsn > volume.commit_lsn:
            return
        volume.table_told = table.lsn
        copy = <uint8_t *>malloc(SP_RESERVATION_BYTES)
        sp_assert(copy != NULL, b"no memory for an event")
        memcpy(copy, table.blob, SP_RESERVATION_BYTES)
        event_data_up(volume, EVENT_RESERVATIONS, table.lsn, copy, SP_RESERVATION_BYTES)


# ---------------------------------------------------------------- on the disk

cdef void table_install(Volume *volume, Table *table) noexcept nogil:
    cdef Table *before = volume.table
    newest_is(volume, table)
    let_go(volume, before)


cdef uint64_t table_slot_at(const Volume *volume) noexcept nogil:
    return SP_TABLE_SLOTS_OFFSET + (volume.super.now.table_slot & 1) * SP_RESERVATION_BYTES


cdef uint64_t table_spare_at(const Volume *volume) noexcept nogil:
    return SP_TABLE_SLOTS_OFFSET + (~volume.super.now.table_slot & 1) * SP_RESERVATION_BYTES


cdef void table_name(Volume *volume, const Table *table) noexcept nogil:
    volume.super.now.table_slot = ~volume.super.now.table_slot & 1
    volume.super.now.table_lsn = table.lsn
    volume.super.now.table_check = table.check
    volume.super.now.feature_level = FEATURE_LEVEL_TABLES


cdef Table *table_due(const Volume *volume, uint64_t lsn) noexcept nogil:
    cdef Table *table = table_at(volume, lsn)
    # While a replica is rebuilt the one it began with may be newer than what is applied.
    if table == NULL or table.lsn <= volume.super.now.table_lsn:
        return NULL
    return table


cdef void table_applied(Volume *volume, uint64_t lsn) noexcept nogil:
    cdef Table *table = table_at(volume, lsn)
    cdef Table *older
    if table != NULL:
        older = table.older
        table.older = NULL
        let_go(volume, older)


# ---------------------------------------------------------------- who may do what

cdef void nexus_set(Nexus *nexus, const uint8_t *record) noexcept nogil:
    memcpy(nexus.identity, record, SP_RESERVATION_REGISTRANT_SIZE)
    nexus.named = nexus.identity[SP_RESERVATION_REGISTRANT_AT_KIND] != 0
    nexus.serial = 0


cdef int place_of(const Table *table, const Nexus *nexus) noexcept nogil:
    """The place of this nexus among the registrants, -1 when it has none. Keys and ports are no part of a nexus."""
    cdef uint32_t count = (<const sp_reservation_header *>table.blob).count
    cdef const uint8_t *at = table.blob + SP_RESERVATION_HEADER_SIZE
    cdef uint32_t i
    if not nexus.named:
        return -1
    for i in range(min(count, <uint32_t>SP_RESERVATION_REGISTRANTS_MAX)):
        if (
            at[SP_RESERVATION_REGISTRANT_AT_KIND] == nexus.identity[SP_RESERVATION_REGISTRANT_AT_KIND]
            and at[SP_RESERVATION_REGISTRANT_AT_NAME_LEN] == nexus.identity[SP_RESERVATION_REGISTRANT_AT_NAME_LEN]
            and memcmp(
                at + SP_RESERVATION_REGISTRANT_AT_IDENTIFIER,
                nexus.identity + SP_RESERVATION_REGISTRANT_AT_IDENTIFIER,
                SP_RESERVATION_REGISTRANT_SIZE - SP_RESERVATION_REGISTRANT_AT_IDENTIFIER,
            ) == 0
        ):
            return <int>i
        at += SP_RESERVATION_REGISTRANT_SIZE
    return -1


cdef uint32_t allowed(const Table *table, int place) noexcept nogil:
    """Source: SPC-4, table 66; NVMe base 2.0, figure 440. An unknown type forbids everything."""
    cdef const sp_reservation_header *head = <const sp_reservation_header *>table.blob
    cdef bint holds = place >= 0 and <uint32_t>place == head.holder
    cdef bint registered = place >= 0
    cdef uint32_t type = head.type
    if type == SP_RESERVATION_NONE:
        return MAY_READ | MAY_WRITE
    if type == SP_RESERVATION_WRITE_EXCLUSIVE:
        return MAY_READ | MAY_WRITE if holds else MAY_READ
    if type == SP_RESERVATION_EXCLUSIVE_ACCESS:
        return MAY_READ | MAY_WRITE if holds else 0
    if type == SP_RESERVATION_WRITE_EXCLUSIVE_RO or type == SP_RESERVATION_WRITE_EXCLUSIVE_AR:
        return MAY_READ | MAY_WRITE if registered else MAY_READ
    if type == SP_RESERVATION_EXCLUSIVE_ACCESS_RO or type == SP_RESERVATION_EXCLUSIVE_ACCESS_AR:
        return MAY_READ | MAY_WRITE if registered else 0
    return 0


cdef bint nexus_look(Volume *volume, Nexus *nexus, uint32_t what) noexcept nogil:
    if nexus == NULL:
        return allowed(volume.table, -1) & what == what
    if nexus.serial != volume.table_serial:
        nexus.may = allowed(volume.table, place_of(volume.table, nexus))
        nexus.serial = volume.table_serial
    return nexus.may & what == what
