"""The SCSI commands of the data path: decode, bounds, sense. Everything else is Python's (sparrow.frontends.scsi).

Source: SBC-3, 5 (READ, WRITE, SYNCHRONIZE CACHE); SPC-4, 4.3 (CDB), 4.5 (sense data), 6.47 (TEST UNIT READY).
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t

from sparrow._native.pool cimport PAGE
from sparrow._native.replication.promises cimport promise_stands
from sparrow._native.sys cimport EILSEQ, EINVAL, EIO, ENOSPC, ESTALE, memset
from sparrow._native.volume cimport REQ_PAGES_MAX, Volume

cdef enum:
    NACA = 0x04                # in the control byte: not supported
    PROTECT = 0xE0             # RDPROTECT, WRPROTECT: no protection information here
    GROUP_6 = 0
    GROUP_16 = 4
    GROUP_12 = 5
    ANCHOR = 0x10              # WRITE SAME
    NDOB = 0x01                # WRITE SAME (16): no data-out buffer, the block is zeros
    BYTCHK = 0x06              # VERIFY: what is compared with the medium


cdef inline uint64_t number(const uint8_t *at, int count) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(count):
        value = value << 8 | at[i]
    return value


cdef inline uint32_t kind_of(uint8_t opcode) noexcept nogil:
    if opcode == 0x00:
        return CDB_READY
    if opcode == 0x08 or opcode == 0x28 or opcode == 0xA8 or opcode == 0x88:
        return CDB_READ
    # With WRITE AND VERIFY, whose data is durable and summed like any other's, and WRITE ATOMIC, which any WRITE is.
    if (
        opcode == 0x0A or opcode == 0x2A or opcode == 0xAA or opcode == 0x8A or opcode == 0x2E or opcode == 0xAE
        or opcode == 0x8E or opcode == 0x9C
    ):
        return CDB_WRITE
    if opcode == 0x35 or opcode == 0x91:
        return CDB_FLUSH
    if opcode == 0x42:
        return CDB_UNMAP
    if opcode == 0x41 or opcode == 0x93:
        return CDB_SAME
    if opcode == 0x2F or opcode == 0xAF or opcode == 0x8F:
        return CDB_VERIFY
    if opcode == 0x34 or opcode == 0x90:
        return CDB_PREFETCH
    if opcode == 0x89:
        return CDB_COMPARE
    return CDB_OTHER


cdef inline void refuse(Cdb *to, uint32_t sense, int32_t field, int32_t bit) noexcept nogil:
    to.sense = sense
    to.field = field
    to.bit = bit


cdef uint32_t unmap_count(const uint8_t *list_bytes, uint32_t length, uint32_t *count) noexcept nogil:
    """Source: SBC-3, 5.28.2."""
    cdef uint32_t bytes_all
    count[0] = 0
    if length == 0:
        return 0
    if length < 8:
        return SENSE_LIST_LENGTH
    bytes_all = min(<uint32_t>number(list_bytes + 2, 2), length - 8)
    count[0] = bytes_all // 16
    return SENSE_LIST_FIELD if count[0] > UNMAP_RANGES_MAX else 0


cdef uint32_t unmap_range(
    const uint8_t *descriptor, const Volume *volume, uint64_t *first, uint64_t *end
) noexcept nogil:
    cdef uint64_t capacity = volume.served * (PAGE // volume.block_size)
    cdef uint64_t lba = number(descriptor, 8)
    cdef uint64_t blocks = number(descriptor + 8, 4)
    if lba > capacity or blocks > capacity - lba:
        return SENSE_RANGE
    first[0] = lba * volume.block_size
    end[0] = (lba + blocks) * volume.block_size
    return 0


cdef void verify_decode(Cdb *to, const uint8_t *cdb, const Volume *volume, uint32_t control) noexcept nogil:
    """BYTCHK 0: only the medium is read; 1: all of it is compared; 3: each block with the one sent. SBC-3, 5.29."""
    cdef uint32_t check = (cdb[1] & BYTCHK) >> 1
    if check == 2:
        refuse(to, SENSE_FIELD, 1, 2)
    elif check == 3:
        to.data_bytes = volume.block_size
        to.same = True
    elif check == 1:
        if (
            ((to.lba + to.blocks) * volume.block_size - 1) // PAGE - to.lba * volume.block_size // PAGE + 1
            > REQ_PAGES_MAX
        ):
            refuse(to, SENSE_FIELD, 7 if control == 9 else 6 if control == 11 else 10, 7)
        to.data_bytes = to.blocks * volume.block_size


cdef void cdb_decode(Cdb *to, const uint8_t *cdb, const Volume *volume) noexcept nogil:
    cdef uint8_t group = cdb[0] >> 5
    cdef uint32_t control
    cdef uint64_t blocks, capacity, first, last
    memset(to, 0, sizeof(Cdb))
    to.field = -1
    to.bit = -1
    to.kind = kind_of(cdb[0])
    if to.kind == CDB_OTHER:
        return
    if group == GROUP_6:
        to.lba = number(cdb + 1, 3) & 0x1FFFFF
        # A length of 0 means 256 here and only here. Source: SBC-3, 5.7.
        blocks = cdb[4] if cdb[4] != 0 else 256
        control = 5
    elif group == GROUP_16:
        to.lba = number(cdb + 2, 8)
        blocks = number(cdb + 10, 4)
        control = 15
    elif group == GROUP_12:
        to.lba = number(cdb + 2, 4)
        blocks = number(cdb + 6, 4)
        control = 11
    else:
        to.lba = number(cdb + 2, 4)
        blocks = number(cdb + 7, 2)
        control = 9
    to.blocks = <uint32_t>blocks
    if cdb[control] & NACA:
        refuse(to, SENSE_FIELD, control, 2)
        return
    if to.kind == CDB_READY:
        to.blocks = 0
        return
    if to.kind == CDB_UNMAP:
        to.lba = 0
        to.blocks = 0
        to.data_bytes = <uint32_t>blocks
        if cdb[1] & 0x01:
            # ANCHOR: there is no anchored state here.
            refuse(to, SENSE_FIELD, 1, 0)
        elif to.data_bytes > 8 + 16 * UNMAP_RANGES_MAX:
            refuse(to, SENSE_FIELD, 7, 7)
        return
    if cdb[0] == 0x9C:
        # Atomic boundary and length are 16 bits each. Source: SBC-4, 5.48.
        blocks = number(cdb + 12, 2)
        to.blocks = <uint32_t>blocks
        if cdb[10] != 0 or cdb[11] != 0:
            refuse(to, SENSE_FIELD, 10, 7)
            return
    if to.kind == CDB_COMPARE:
        blocks = cdb[13]
        to.blocks = <uint32_t>blocks
    if to.kind != CDB_FLUSH and to.kind != CDB_PREFETCH and group != GROUP_6 and cdb[1] & PROTECT:
        refuse(to, SENSE_FIELD, 1, 7)
        return
    capacity = volume.served * (PAGE // volume.block_size)
    if to.lba > capacity or blocks > capacity - to.lba:
        refuse(to, SENSE_RANGE, -1, -1)
        return
    if to.kind == CDB_FLUSH or to.kind == CDB_PREFETCH:
        return
    if to.kind == CDB_SAME:
        if cdb[1] & ANCHOR:
            refuse(to, SENSE_FIELD, 1, 4)
        elif blocks == 0 or blocks * volume.block_size > <uint64_t>SAME_PAGES_MAX * PAGE:
            refuse(to, SENSE_FIELD, 7 if control == 9 else 10, 7)
        elif control == 9 or not cdb[1] & NDOB:
            to.data_bytes = volume.block_size
        return
    if blocks == 0:
        return
    if to.kind == CDB_COMPARE:
        # One page, wherever it begins; told in VPD page B0.
        if blocks * volume.block_size > PAGE:
            refuse(to, SENSE_FIELD, 13, 7)
        to.data_bytes = <uint32_t>(2 * blocks * volume.block_size)
        return
    if to.kind == CDB_VERIFY:
        verify_decode(to, cdb, volume, control)
        return
    first = to.lba * volume.block_size // PAGE
    last = ((to.lba + blocks) * volume.block_size - 1) // PAGE
    if last - first + 1 > REQ_PAGES_MAX:
        refuse(to, SENSE_FIELD, 7 if control == 9 else 6 if control == 11 else 10, 7)
        return
    if to.kind == CDB_WRITE:
        to.data_bytes = <uint32_t>(blocks * volume.block_size)


cdef uint32_t sense_build(uint8_t *to, uint32_t sense, int32_t field, int32_t bit) noexcept nogil:
    memset(to, 0, 20)
    to[1] = 18
    to[2] = 0x70
    to[4] = <uint8_t>(sense >> 16)
    to[9] = 10
    to[14] = <uint8_t>(sense >> 8)
    to[15] = <uint8_t>sense
    if field >= 0:
        # Sense-key-specific: the field of the CDB that is wrong. Source: SPC-4, 4.5.2.4.2.
        to[17] = 0xC0
        if bit >= 0:
            to[17] |= 0x08 | <uint8_t>bit
        to[19] = <uint8_t>field
    return 20


cdef uint32_t sense_of(const Volume *volume, uint32_t kind, int rc) noexcept nogil:
    if rc == -ESTALE:
        return path_sense(volume)
    if rc == -ENOSPC:
        return SENSE_SPACE
    if rc == -EINVAL:
        return SENSE_RANGE
    if rc == -EILSEQ:
        return SENSE_MISCOMPARE
    if rc == -EIO and (kind == CDB_READ or kind == CDB_VERIFY) and not volume.condemned:
        return SENSE_READ_ERROR
    return SENSE_FAILURE


cdef uint32_t path_sense(const Volume *volume) noexcept nogil:
    """STANDBY while a promise given to a living primary runs: that path is the one to use. Otherwise TRANSITION, which
    initiators try again soon: after STANDBY dm-multipath looks at the path only at its polling interval."""
    if promise_stands(volume):
        return SENSE_STANDBY
    return SENSE_TRANSITION
