"""The superblock of one replica: who it is, what it promised, where its log begins.

The file holds two copies of one 4 KiB block. An update writes copy 0 durably, then copy 1 with the same content, one
update at a time, so at any moment at least one copy is whole. A copy is valid if and only if magic, format and
``check`` (CRC32C of the block with the field zero) are right. At open the valid copy with the higher ``sequence``
counts; equal or neighbouring sequences are normal after a crash. If only one copy is valid the replica is ``suspect``:
the lost copy may have held a newer promise, so it grants and promises nothing until it has rejoined under a line
received from the master.

``tail_*`` names where the retained log begins, ``applied_*`` where the part begins that is not applied yet. What lies
between is kept for peers only: if it is damaged, recovery goes on at ``applied_offset`` and nothing is lost here.

A replica in state ``rebuilding`` is described by four LSNs and page numbers, whose meaning is argued in
``replication/base_receive.pyx``: they say what need not be copied again when a rebuild is interrupted.

Behind the copies lie two slots for the table of reservations (``reservations.py``), at 8192 and 24576. A checkpoint
that passes a table entry writes the table to the slot that is not named, durably, before the superblock names it with
its LSN and checksum. A file that ends before the slots is one that never held a table.

Behind the slots, at 40960, lie the list places (``sums.py``). A file that ends before them was made by an older
version; it is made longer when it is opened.

``reach_*`` say up to which entry of which history its pages may reach (``wal/reach.pyx``). A superblock of before has
zeros there, for they lie where the room for the line ended and where nothing was: it says nothing of it.

``joint_*`` name what a replica that catches up may have written in another order than its primary did
(``wal/joint.pyx``). They lie where zeros were likewise: nothing was.

``line`` is the newest line acted on, as canonical JSON, together with the peers pending under it: the core carries it,
only the node reads it. The term table holds rows for everything up to the log's tail; rows of retained batches are
derived from the log.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.absences import ABSENCE_ROW, ABSENCES_MAX
from sparrow.formats.layout import Constant, Field, Layout
from sparrow.formats.reservations import RESERVATION_BYTES
from sparrow.formats.sums import SUMS_LIST, SUMS_LIST_PLACES

SUPERBLOCK_MAGIC: Final = Constant("superblock_magic", 0x4B4C42535F50535F, "first bytes of a copy")
SUPERBLOCK_FORMAT: Final = Constant("superblock_format", 1, "version of the superblock layout")
SUPERBLOCK_BYTES: Final = Constant("superblock_bytes", 4096, "one copy, bytes")
TERM_ROWS_MAX: Final = Constant("term_rows_max", 48, "rows of the term table")
LINE_BYTES_MAX: Final = Constant("line_bytes_max", 2528, "room for the line, bytes")

TABLE_SLOTS_OFFSET: Final = Constant(
    "table_slots_offset", 8192, "where the first slot begins in the file superblock"
)
TABLE_SLOTS: Final = Constant("table_slots", 2, "slots, each of reservation_bytes")

SUMS_LISTS_OFFSET: Final = Constant(
    "sums_lists_offset",
    TABLE_SLOTS_OFFSET + TABLE_SLOTS * RESERVATION_BYTES,
    "where the first list place begins in the file superblock",
)

SUPERBLOCK_FILE_BYTES: Final = Constant(
    "superblock_file_bytes",
    SUMS_LISTS_OFFSET + SUMS_LIST_PLACES * SUMS_LIST.size,
    "the whole file, bytes",
)

STATE_CLEAN: Final = Constant("state_clean", 1, "replica state")
STATE_REBUILDING: Final = Constant("state_rebuilding", 2, "replica state: base copy unfinished")
STATE_QUARANTINED: Final = Constant("state_quarantined", 3, "replica state: divergent, kept")
STATE_CONDEMNED: Final = Constant("state_condemned", 4, "replica state: disk failed")
STATE_RETIRED: Final = Constant("state_retired", 5, "replica state: volume deleted")

TERM_ROW = Layout(
    "term_row",
    order="le",
    size=24,
    doc="First LSN of one term; it ends where the next row begins.",
    fields=(
        Field("epoch", "u64", "term: epoch"),
        Field("start", "u64", "term: start counter"),
        Field("first_lsn", "u64", "first LSN of the term in this log"),
    ),
)

SUPERBLOCK = Layout(
    "superblock",
    order="le",
    size=SUPERBLOCK_BYTES,
    doc="One copy; the file has two, at offsets 0 and 4096.",
    fields=(
        Field("magic", "u64", "SUPERBLOCK_MAGIC"),
        Field("check", "u32", "CRC32C of the block with this field zero"),
        Field("format", "u16", "SUPERBLOCK_FORMAT"),
        Field(
            "feature_level",
            "u16",
            "lowest feature level that understands this replica: 2 once it held a table",
        ),
        Field("sequence", "u64", "counts updates"),
        Field("volume_key", "u64", "hash of the volume id"),
        Field("uuid", "bytes16", "random at format time"),
        Field("replica_id", "bytes16", "ASCII, zero padded"),
        Field("size_bytes", "u64", "of the volume as of applied_lsn"),
        Field("block_size", "u32", "logical block: 512 or 4096"),
        Field("state", "u32", "1 clean, 2 rebuilding, 3 quarantined, 4 condemned, 5 retired"),
        Field("start", "u64", "start counter; raised before the first LSN of every process start"),
        Field("promised_epoch", "u64", "highest epoch promised"),
        Field("promised_start", "u64", "start counter of the promise"),
        Field("promised_primary", "bytes16", "replica id the epoch was promised to"),
        Field("wal_bytes", "u64", "size of the ring"),
        Field("tail_offset", "u64", "where the oldest retained batch begins"),
        Field("tail_lsn", "u64", "last LSN before the oldest retained batch"),
        Field("tail_check", "u32", "check of the batch before the oldest retained one"),
        Field("term_rows", "u32", "rows in use"),
        Field("applied_lsn", "u64", "everything up to it is in the extents"),
        Field(
            "base_lsn", "u64", "rebuild: the log begins after this LSN; 0 before its session began"
        ),
        Field("line_bytes", "u32", "length of line"),
        Field("applied_check", "u32", "check of the batch that ends at applied_lsn"),
        Field(
            "wal_offset",
            "u64",
            "where the ring begins on the WAL device; 0 when it is the file wal",
        ),
        Field("wal_device", "bytes16", "uuid of the WAL device, zero without one"),
        Field(
            "applied_offset",
            "u64",
            "where the batch after applied_lsn begins, or would, in the ring",
        ),
        Field("base_cursor", "u64", "rebuild: pages below it hold every entry up to base_from"),
        Field("base_from", "u64", "rebuild: entries in (base_from, base_lsn] may be missing there"),
        Field("base_patched", "u64", "rebuild: pages below it miss none of these any more"),
        Field("terms", "bytes1152", "48 term rows, oldest first"),
        Field("line", "bytes2528", "canonical JSON: newest line acted on and pending peers"),
        Field(
            "joint_from",
            "u64",
            "floors in headers say nothing of entries in (joint_from, joint_to]",
        ),
        Field("joint_to", "u64", "0: they count wherever they are"),
        Field("reach_epoch", "u64", "term whose history reach_lsn is of: epoch"),
        Field("reach_start", "u64", "and start counter"),
        Field("absences", "bytes128", "4 absence rows: maps of members outside the in-sync set"),
        Field("table_lsn", "u64", "table of reservations as of applied_lsn: its LSN; 0 for none"),
        Field("table_check", "u32", "CRC32C of that table"),
        Field("table_slot", "u16", "slot that holds it: 0 or 1"),
        Field(
            "given_back",
            "u16",
            "1: no zero entry up to applied_lsn has place to give back; 0: one may",
        ),
        Field("reach_lsn", "u64", "pages hold nothing above it; 0 when that is not known"),
    ),
)

assert TERM_ROWS_MAX * TERM_ROW.size == 1152
assert ABSENCES_MAX * ABSENCE_ROW.size == 128
