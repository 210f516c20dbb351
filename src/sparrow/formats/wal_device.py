"""The table of a WAL device: a raw partition or logical volume that holds the logs of many replicas.

A file system costs a log worker hand-offs, timestamps and journal commits; a raw device has none of them. The first
MiB of the device holds the table, twice; the rings follow, each where its row says. An update writes copy 0 durably,
then copy 1 with the same content, one update at a time, so at any moment at least one copy is whole. A copy is valid
if and only if magic, format and ``check`` (CRC32C of the copy with the field zero) are right; the valid copy with the
higher ``sequence`` counts.

A row is made before the superblock that points at its ring, and goes after that superblock has gone. So a ring that a
superblock names always has its row, and a row whose uuid no superblock of the pool names is left over from a crash and
may be given away again.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Constant, Field, Layout

WAL_DEVICE_MAGIC: Final = Constant("wal_device_magic", 0x5645444C57_5053, "first bytes of a copy")
WAL_DEVICE_FORMAT: Final = Constant("wal_device_format", 1, "version of the table's layout")
WAL_DEVICE_TABLE_BYTES: Final = Constant("wal_device_table_bytes", 65536, "one copy, bytes")
WAL_DEVICE_RINGS_AT: Final = Constant(
    "wal_device_rings_at", 1 << 20, "where the first ring may begin"
)
WAL_DEVICE_ROWS_MAX: Final = Constant("wal_device_rows_max", 2040, "rows of the table")

WAL_DEVICE_ROW = Layout(
    "wal_device_row",
    order="le",
    size=32,
    doc="One ring.",
    fields=(
        Field("uuid", "bytes16", "of the replica whose log it is"),
        Field("offset", "u64", "where the ring begins on the device, a multiple of 1 MiB"),
        Field("bytes", "u64", "size of the ring, a multiple of 1 MiB"),
    ),
)

WAL_DEVICE_TABLE = Layout(
    "wal_device_table",
    order="le",
    size=WAL_DEVICE_TABLE_BYTES,
    doc="One copy; the device has two, at offsets 0 and 65536.",
    fields=(
        Field("magic", "u64", "WAL_DEVICE_MAGIC"),
        Field("check", "u32", "CRC32C of the copy with this field zero"),
        Field("format", "u16", "WAL_DEVICE_FORMAT"),
        Field("reserved0", "reserved2", "zero"),
        Field("sequence", "u64", "counts updates"),
        Field("uuid", "bytes16", "of the device, random when it was taken into use"),
        Field("node_id", "bytes64", "node the device belongs to, ASCII, zero padded"),
        Field("count", "u32", "rows in use"),
        Field("reserved1", "reserved148", "zero"),
        Field("rows", "bytes65280", "rows, by offset"),
    ),
)

assert WAL_DEVICE_ROWS_MAX * WAL_DEVICE_ROW.size == 65280
assert 2 * WAL_DEVICE_TABLE_BYTES <= WAL_DEVICE_RINGS_AT
