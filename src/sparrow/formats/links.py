"""Frames between two nodes' cores once the hello is done: the ship link and the grant link.

Ship link, one per volume and peer, primary to follower: ``ship_frame`` followed by its body. BATCH carries the bytes of
one log batch; BASE the pages of a rebuild (``base_head``, ``count`` page states, checksums, then the data pages in
order); BASE_START begins a rebuild (``base_start``: where the follower's log is to begin), BASE_TABLE comes before it
when the volume has a table of reservations (``base_table``, then the newest committed one), BASE_MARK (``base_mark``)
says how far the base lane is and that nothing older than its as-of LSN comes any more, and BASE_DONE ends the lane;
COMMIT only moves the commit LSN. Follower to primary: ``ship_ack``, nothing else, so acks never queue behind bulk data.
Every body is whole 4 KiB blocks: the head fills the first (zero after it), data pages follow, so that pages land
aligned.

Grant link, one per node pair and direction: ``grant_ask`` with one ``grant_entry`` per volume, answered by
``grant_reply`` with one ``grant_verdict`` each, in the order asked. The stamps of an answer are those of the newest ask
read before it was made. Both also say whether they have the volume's ship link, so an idle link needs no traffic of its
own to be found dead. A primary whose term is over gives its grants back on the same link: a ``grant_ask`` head with
the magic of a release, then one ``grant_release`` per volume; nothing answers it. It cancels every grant of that term
asked for with its stamp or a lower one.
"""

from __future__ import annotations

from typing import Final

from sparrow.formats.layout import Constant, Field, Layout

SHIP_MAGIC: Final = Constant("ship_magic", 0x50494853, "first bytes of a ship frame")
ACK_MAGIC: Final = Constant("ack_magic", 0x4B434153, "first bytes of an ack")
GRANT_ASK_MAGIC: Final = Constant("grant_ask_magic", 0x4B534147, "first bytes of a grant request")
GRANT_REPLY_MAGIC: Final = Constant(
    "grant_reply_magic", 0x50455247, "first bytes of a grant answer"
)
GRANT_RELEASE_MAGIC: Final = Constant(
    "grant_release_magic", 0x4C455247, "first bytes of a release of grants"
)

FRAME_BATCH: Final = Constant("frame_batch", 1, "frame kind: one log batch")
FRAME_COMMIT: Final = Constant("frame_commit", 2, "frame kind: commit LSN only")
FRAME_BASE: Final = Constant("frame_base", 3, "frame kind: pages of a rebuild")
FRAME_BASE_DONE: Final = Constant("frame_base_done", 4, "frame kind: base lane complete")
FRAME_BASE_START: Final = Constant("frame_base_start", 5, "frame kind: begin of a rebuild")
FRAME_BASE_MARK: Final = Constant("frame_base_mark", 6, "frame kind: how far the base lane is")
FRAME_BASE_TABLE: Final = Constant(
    "frame_base_table", 7, "frame kind: table of reservations a rebuild begins with"
)

BASE_PAGES_MAX: Final = Constant("base_pages_max", 64, "pages of one base frame")
GRANT_VOLUMES_MAX: Final = Constant("grant_volumes_max", 1024, "volumes of one grant exchange")
GRANT_RELEASES_MAX: Final = Constant("grant_releases_max", 256, "volumes of one release")

VERDICT_GRANTED: Final = Constant("verdict_granted", 1, "grant verdict")
VERDICT_NOT_PROMISED: Final = Constant(
    "verdict_not_promised", 2, "grant verdict: this term is not promised to the asker"
)
VERDICT_NEWER: Final = Constant("verdict_newer", 3, "grant verdict: a newer epoch is promised")

ASK_GRANT: Final = Constant("ask_grant", 1, "grant entry flag: a grant is wanted")
ASK_LINKED: Final = Constant("ask_linked", 2, "grant entry flag: a ship link to you is open here")
VERDICT_FOLLOWS: Final = Constant(
    "verdict_follows", 1, "grant verdict flag: a ship link of that term is open here"
)

SHIP_FRAME = Layout(
    "ship_frame",
    order="le",
    size=48,
    doc="Head of every frame from primary to follower.",
    fields=(
        Field("magic", "u32", "SHIP_MAGIC"),
        Field("check", "u32", "CRC32C of this head with the field zero"),
        Field(
            "kind",
            "u32",
            "1 batch, 2 commit, 3 base, 4 base done, 5 base start, 6 base mark, 7 base table",
        ),
        Field("body_bytes", "u32", "bytes that follow"),
        Field("term_epoch", "u64", "term of the link: epoch"),
        Field("term_start", "u64", "term of the link: start counter"),
        Field("commit_lsn", "u64", "the primary's commit LSN"),
        Field(
            "as_of_lsn", "u64", "base frames: commit LSN when the pages were read, never going back"
        ),
    ),
)

BASE_HEAD = Layout(
    "base_head",
    order="le",
    size=536,
    doc="Body head of a BASE frame: a run of pages through the primary's committed view.",
    fields=(
        Field("first_page", "u64", "page number"),
        Field("page_count", "u32", "pages described, 1 to 64"),
        Field("data_count", "u32", "pages of state data, whose bytes follow"),
        Field("check", "u32", "CRC32C of this head with the field zero"),
        Field("reserved", "reserved4", "zero"),
        Field("states", "bytes64", "state of each page, one byte"),
        Field("reserved1", "reserved192", "zero"),
        Field("sums", "u32[64]", "CRC32C of each page, u32"),
    ),
)

BASE_START = Layout(
    "base_start",
    order="le",
    size=1192,
    doc="Body of BASE_START; as_of_lsn of the frame is the LSN after which the live lane begins.",
    fields=(
        Field("check", "u32", "header checksum of the batch that ends at that LSN"),
        Field("term_rows", "u32", "rows in use"),
        Field("body_check", "u32", "CRC32C of this body with the field zero"),
        Field("tables", "u32", "1 when BASE_TABLE came before it, else 0"),
        Field("size_bytes", "u64", "size of the volume as of that LSN"),
        Field(
            "cursor", "u64", "pages below it are taken for kept, and not copied in the first pass"
        ),
        Field("from_lsn", "u64", "up to here those are taken for whole; zero without any"),
        Field("terms", "bytes1152", "48 term rows, oldest first: the primary's table"),
    ),
)

BASE_TABLE = Layout(
    "base_table",
    order="le",
    size=24,
    doc="Body head of BASE_TABLE; four pages follow.",
    fields=(
        Field("check", "u32", "CRC32C of this head with the field zero"),
        Field("table_check", "u32", "CRC32C of the table"),
        Field("lsn", "u64", "LSN of its entry"),
        Field("reserved", "reserved8", "zero"),
    ),
)

BASE_MARK = Layout(
    "base_mark",
    order="le",
    size=32,
    doc="Body head of BASE_MARK: everything below these pages was sent, or needed no sending.",
    fields=(
        Field("check", "u32", "CRC32C of this head with the field zero"),
        Field("flags", "u32", "bit 0: make it durable before going on"),
        Field("cursor", "u64", "page the first pass has reached"),
        Field("patched", "u64", "page the second pass has reached"),
        Field("reserved", "reserved8", "zero"),
    ),
)

SHIP_ACK = Layout(
    "ship_ack",
    order="le",
    size=64,
    doc="Follower to primary: how far it is.",
    fields=(
        Field("magic", "u32", "ACK_MAGIC"),
        Field("check", "u32", "CRC32C of this frame with the field zero"),
        Field("term_epoch", "u64", "term of the link: epoch"),
        Field("term_start", "u64", "term of the link: start counter"),
        Field("durable_lsn", "u64", "contiguous durable LSN"),
        Field("applied_lsn", "u64", "applied LSN"),
        Field("base_marks", "u64", "rebuild: durable marks of this link taken"),
        Field("headroom_pages", "u64", "pages this replica can still take"),
        Field("flags", "u32", "bit 0: rebuilt, base and live lane met"),
        Field("reserved", "reserved4", "zero"),
    ),
)

GRANT_ASK = Layout(
    "grant_ask",
    order="le",
    size=32,
    doc="Request for grants; grant_entry times count follow.",
    fields=(
        Field("magic", "u32", "GRANT_ASK_MAGIC"),
        Field("count", "u32", "entries, at most 1024"),
        Field("stamp_boot_ns", "u64", "asker's CLOCK_BOOTTIME when sent"),
        Field("stamp_raw_ns", "u64", "asker's CLOCK_MONOTONIC_RAW when sent"),
        Field("check", "u32", "CRC32C of head (field zero) and entries"),
        Field("reserved", "reserved4", "zero"),
    ),
)

GRANT_ENTRY = Layout(
    "grant_entry",
    order="le",
    size=32,
    doc="One volume the asker is primary of.",
    fields=(
        Field("volume_key", "u64", "hash of the volume id"),
        Field("epoch", "u64", "term: epoch"),
        Field("start", "u64", "term: start counter"),
        Field("flags", "u32", "1 a grant is wanted, 2 a ship link to you is open here"),
        Field("reserved", "reserved4", "zero"),
    ),
)

GRANT_REPLY = Layout(
    "grant_reply",
    order="le",
    size=32,
    doc="Answer; grant_verdict times count follow, in the order asked.",
    fields=(
        Field("magic", "u32", "GRANT_REPLY_MAGIC"),
        Field("count", "u32", "verdicts"),
        Field("stamp_boot_ns", "u64", "echoed"),
        Field("stamp_raw_ns", "u64", "echoed"),
        Field("granted_ms", "u32", "how long the promise runs from reading the ask"),
        Field("check", "u32", "CRC32C of head (field zero) and verdicts"),
    ),
)

GRANT_VERDICT = Layout(
    "grant_verdict",
    order="le",
    size=24,
    doc="What the granter says of one volume.",
    fields=(
        Field("volume_key", "u64", "hash of the volume id"),
        Field("verdict", "u32", "1 granted, 2 not promised to you, 3 a newer epoch is promised"),
        Field("flags", "u32", "1 a ship link of that term is open here"),
        Field("promised_epoch", "u64", "the granter's promised epoch"),
    ),
)

GRANT_RELEASE = Layout(
    "grant_release",
    order="le",
    size=32,
    doc="One volume whose grants are given back: its gate is closed for the rest of the term.",
    fields=(
        Field("volume_key", "u64", "hash of the volume id"),
        Field("epoch", "u64", "term: epoch"),
        Field("start", "u64", "term: start counter"),
        Field("stamp_boot_ns", "u64", "the highest stamp it cancels"),
    ),
)
