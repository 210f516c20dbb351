"""The write-ahead log of one replica: a ring of batches.

A batch is one disk write and one replication frame: a header block, then payload pages, all 4 KiB aligned. The header
is ``wal_batch`` followed by ``entry_count`` times ``wal_entry`` and one CRC32C (u32) per payload page; the rest of the
block is zero. A batch never straddles the end of the ring: when it does not fit there, it starts at offset 0.

Nothing in a batch says where it lies, so the same bytes serve every replica, whatever the size and phase of its ring:
checksums are computed once, at the primary, and verified at every hop and at recovery.

A batch is the next one of a log if and only if

1. ``magic`` and ``format`` are right, the sizes fit their bounds, and ``check`` is the CRC32C of the header blocks
   taken with ``check`` as zero;
2. ``volume_key`` is the volume's;
3. ``first_lsn`` is the last LSN so far plus one, and ``parent`` is ``check`` of the batch before it;
4. its term is not older than the batch before it;
5. every payload page has the CRC32C that the header gives for it.

``parent`` is why a batch of an earlier lap, or one that was written after a torn one, can never be taken for the next:
the batch that follows a tear has a new term and hence another check. ``durable_floor`` tells a tear from damage: it is
the contiguous durable LSN when the batch was submitted, so a later valid batch of the same term whose floor is at or
above a missing LSN proves that the missing one had been durable (docs/ARCHITECTURE.md, "Recovery").

A reader that finds no next batch at its position looks at offset 0 once, then decides between torn tail and damage.
The superblock's ``tail_offset`` says where to begin; space behind the durable tail may be overwritten.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Constant, Field, Layout

WAL_MAGIC: Final = Constant("wal_magic", 0x4C41575F50535F31, "first bytes of a batch")
WAL_FORMAT: Final = Constant("wal_format", 1, "version of the batch layout")
BLOCK_BYTES: Final = Constant("block_bytes", 4096, "alignment and unit of the log, bytes")
BATCH_PAGES_MAX: Final = Constant("batch_pages_max", 256, "payload pages of one batch")
BATCH_ENTRIES_MAX: Final = Constant(
    "batch_entries_max", 142, "entries of one batch: what one header block holds"
)
BATCH_HEADER_BLOCKS_MAX: Final = Constant(
    "batch_header_blocks_max", 1, "header blocks of one batch"
)
BATCH_BYTES_MAX: Final = Constant(
    "batch_bytes_max",
    (BATCH_PAGES_MAX + BATCH_HEADER_BLOCKS_MAX) * BLOCK_BYTES,
    "largest batch, bytes",
)

#: A zero entry has no payload, so these bound what one entry, and one batch, asks of whoever applies it.
ZERO_PAGES_MAX: Final = Constant("zero_pages_max", 65536, "pages of one zero entry: 256 MiB")
BATCH_ZEROS_MAX: Final = Constant("batch_zeros_max", 32, "zero entries of one batch")

#: Kinds of entry.
ENTRY_WRITE: Final = Constant("entry_write", 1, "entry kind: pages follow")
ENTRY_ZERO: Final = Constant("entry_zero", 2, "entry kind: pages become zero")
ENTRY_TERM_START: Final = Constant("entry_term_start", 3, "entry kind: first entry of a term")
#: Volume state that fails over with the data is an entry too.
ENTRY_RESIZE: Final = Constant("entry_resize", 4, "entry kind: the volume becomes longer")
ENTRY_TABLE: Final = Constant(
    "entry_table", 5, "entry kind: the table of reservations from here on"
)
TABLE_PAGES: Final = Constant("table_pages", 4, "payload pages of a table entry: all of the table")

BATCH = Layout(
    "wal_batch",
    order="le",
    size=112,
    doc="Head of a batch; followed by entries, page checksums and zero padding to whole blocks.",
    fields=(
        Field("magic", "u64", "WAL_MAGIC"),
        Field("check", "u32", "CRC32C of all header blocks with this field zero; names the batch"),
        Field("format", "u16", "WAL_FORMAT"),
        Field("feature_level", "u16", "lowest feature level that understands every entry"),
        Field("volume_key", "u64", "hash of the volume id"),
        Field("term_epoch", "u64", "term of every entry: epoch"),
        Field("term_start", "u64", "term of every entry: start counter"),
        Field("first_lsn", "u64", "LSN of the first entry; the others follow by one"),
        Field("durable_floor", "u64", "contiguous durable LSN at the primary when submitted"),
        Field("commit_lsn", "u64", "commit LSN known when submitted"),
        Field("parent", "u32", "check of the batch before this one, 0 for the first of all"),
        Field("entry_count", "u32", "1 to 142"),
        Field("page_count", "u32", "payload pages, 0 to 256"),
        Field("header_blocks", "u32", "4 KiB blocks before the payload, 1"),
        Field("reserved", "reserved32", "zero"),
    ),
)

ENTRY = Layout(
    "wal_entry",
    order="le",
    size=24,
    doc="One logged operation. LSN = first_lsn + position.",
    fields=(
        Field("kind", "u8", "1 write, 2 zero, 3 term start, 4 resize, 5 table"),
        Field("flags", "u8", "0"),
        Field("reserved", "reserved2", "zero"),
        Field(
            "page_count",
            "u32",
            "pages covered; a write or a table has as many payload pages, a zero entry none",
        ),
        Field("first_page", "u64", "page number in the volume"),
        Field("aux", "u64", "resize: the new size in bytes; else 0"),
    ),
)

# Many small entries, or few large ones: the header must fit its block either way.
assert BATCH.size + BATCH_ENTRIES_MAX * (ENTRY.size + 4) <= BLOCK_BYTES
assert BATCH.size + ENTRY.size + BATCH_PAGES_MAX * 4 <= BLOCK_BYTES
