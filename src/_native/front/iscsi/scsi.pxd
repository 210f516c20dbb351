# CDBs of the commands that move or flush data, and sense data. Knows no session. Source: SPC-4, SBC-3.
from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.volume cimport Volume


cdef enum CdbKind:
    CDB_OTHER = 0              # Python's
    CDB_READY = 1              # TEST UNIT READY
    CDB_READ = 2
    CDB_WRITE = 3
    CDB_FLUSH = 4              # SYNCHRONIZE CACHE
    CDB_UNMAP = 5
    CDB_SAME = 6               # WRITE SAME
    CDB_VERIFY = 7
    CDB_PREFETCH = 8
    CDB_COMPARE = 9            # COMPARE AND WRITE

cdef enum:
    UNMAP_PAGES_MAX = 131072   # of one UNMAP: 512 MiB. Told in VPD page B0, as the next two are
    UNMAP_RANGES_MAX = 64
    SAME_PAGES_MAX = 65536     # of one WRITE SAME: 256 MiB

cdef enum ScsiStatus:
    STATUS_GOOD = 0x00
    STATUS_CHECK = 0x02
    STATUS_BUSY = 0x08
    STATUS_CONFLICT = 0x18
    STATUS_ABORTED = 0x40

# Sense key, additional sense code and its qualifier as one number; 0 is no sense.
cdef enum Sense:
    SENSE_STANDBY = 0x02040B           # NOT READY, asymmetric access state standby
    SENSE_TRANSITION = 0x02040A        # NOT READY, asymmetric access state transition
    SENSE_READ_ERROR = 0x031100        # MEDIUM ERROR, unrecovered read error
    SENSE_FAILURE = 0x044400           # HARDWARE ERROR, internal target failure
    SENSE_RANGE = 0x052100             # ILLEGAL REQUEST, LBA out of range
    SENSE_FIELD = 0x052400             # ILLEGAL REQUEST, invalid field in CDB
    SENSE_LIST_LENGTH = 0x051A00       # ILLEGAL REQUEST, parameter list length error
    SENSE_LIST_FIELD = 0x052600        # ILLEGAL REQUEST, invalid field in parameter list
    SENSE_POWER_ON = 0x062900          # UNIT ATTENTION, power on, reset, or bus device reset occurred
    SENSE_NEXUS_LOSS = 0x062907        # UNIT ATTENTION, I_T nexus loss occurred
    SENSE_RESET = 0x062903             # UNIT ATTENTION, bus device reset function occurred
    SENSE_RESERVATIONS_PREEMPTED = 0x062A03    # UNIT ATTENTION, and so are the next two
    SENSE_RESERVATIONS_RELEASED = 0x062A04
    SENSE_REGISTRATIONS_PREEMPTED = 0x062A05
    SENSE_ACCESS = 0x062A06            # UNIT ATTENTION, asymmetric access state changed
    SENSE_CAPACITY = 0x062A09          # UNIT ATTENTION, capacity data has changed
    SENSE_MISCOMPARE = 0x0E1D00        # MISCOMPARE during verify operation
    SENSE_SPACE = 0x072707             # DATA PROTECT, space allocation failed write protect
    SENSE_UNSOLICITED = 0x0B0C0C       # ABORTED COMMAND, unexpected unsolicited data
    SENSE_AMOUNT = 0x0B0C0D            # ABORTED COMMAND, not enough unsolicited data
    SENSE_SEQUENCE = 0x0B4705          # ABORTED COMMAND, protocol service CRC error: data out of sequence

cdef struct Cdb:
    uint32_t kind
    uint64_t lba
    uint32_t blocks
    uint32_t data_bytes        # the initiator is to send
    bint same                  # VERIFY: one block, with which each is compared
    uint32_t sense             # not 0: a field is wrong
    int32_t field              # the byte of the CDB it is in, or -1
    int32_t bit                # and the bit, or -1

# Take a CDB of 16 bytes apart; what a volume of this size cannot do is refused here.
cdef void cdb_decode(Cdb *to, const uint8_t *cdb, const Volume *volume) noexcept nogil
# One range of an UNMAP parameter list, in bytes of the volume. Returns sense, 0 when it is good.
cdef uint32_t unmap_range(
    const uint8_t *descriptor, const Volume *volume, uint64_t *first, uint64_t *end
) noexcept nogil
# Ranges of an UNMAP parameter list of so many bytes; sense when it cannot be taken.
cdef uint32_t unmap_count(const uint8_t *list_bytes, uint32_t length, uint32_t *count) noexcept nogil
# Fixed-format sense data with its 2-byte length before it, as a SCSI Response carries it; returns the bytes: 20.
cdef uint32_t sense_build(uint8_t *to, uint32_t sense, int32_t field, int32_t bit) noexcept nogil
# What the initiator is told about a request that failed with -errno.
cdef uint32_t sense_of(const Volume *volume, uint32_t kind, int rc) noexcept nogil
# Why this replica does not serve: another one does, or nobody at the moment.
cdef uint32_t path_sense(const Volume *volume) noexcept nogil
