# The table of reservations as the log has it, and who may do what under it. Thread: reactor.
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.volume cimport Nexus, Table, Volume

cdef enum:
    MAY_READ = 1
    MAY_WRITE = 2              # FLUSH counts as one (SBC-3, table 13; NVMe base 2.0, figure 439)
    TABLES_AHEAD = 4           # tables that may be logged and not yet committed
    TABLES_MAX = 16            # and not yet applied, at a primary

# ---- the chain
# A table entry was logged: four pages. One that is not newer than what is here changes nothing.
cdef void table_logged(Volume *volume, uint64_t lsn, uint8_t **pages) noexcept nogil
# The newest table at or below an LSN, NULL for none.
cdef Table *table_at(const Volume *volume, uint64_t lsn) noexcept nogil
cdef uint64_t table_lsn(const Volume *volume) noexcept nogil
# How many are newer than an LSN.
cdef uint32_t tables_above(const Volume *volume, uint64_t lsn) noexcept nogil
# Is this a table, as far as the core looks into one?
cdef bint table_valid(const uint8_t *blob) noexcept nogil
cdef void table_cut(Volume *volume, uint64_t lsn) noexcept nogil
# Without a table: the log begins anew, or the volume goes.
cdef void table_forget(Volume *volume) noexcept nogil
# Tell the control side of every table that has committed and that it was not told of.
cdef void table_tell(Volume *volume) noexcept nogil

# ---- on the disk
# A table of so many bytes, filled by the caller, that becomes the only one when `table_install` says so; NULL without
# memory. `table_discard` frees one that does not.
cdef Table *table_new(uint64_t lsn) noexcept nogil
cdef void table_discard(Table *table) noexcept nogil
cdef void table_install(Volume *volume, Table *table) noexcept nogil
# Where the slot that is not in use begins in the superblock's file; where the one in use does.
cdef uint64_t table_spare_at(const Volume *volume) noexcept nogil
cdef uint64_t table_slot_at(const Volume *volume) noexcept nogil
# The superblock in memory names this table, in the slot that was the spare one.
cdef void table_name(Volume *volume, const Table *table) noexcept nogil
# The table that a checkpoint at this LSN has to put into a slot, NULL when it has to put none.
cdef Table *table_due(const Volume *volume, uint64_t lsn) noexcept nogil
# The checkpoint is durable: tables that no cut can bring back are let go.
cdef void table_applied(Volume *volume, uint64_t lsn) noexcept nogil

# ---- who may do what
cdef bint nexus_look(Volume *volume, Nexus *nexus, uint32_t what) noexcept nogil
cdef void nexus_set(Nexus *nexus, const uint8_t *record) noexcept nogil


cdef inline bint nexus_may(Volume *volume, Nexus *nexus, uint32_t what) noexcept nogil:
    """Does the newest logged table let this nexus do so? NULL is one that can never register."""
    if not volume.reserved:
        return True
    return nexus_look(volume, nexus, what)
