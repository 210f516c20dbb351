"""The files of one replica as a test reads and damages them: by their declared layouts, while the node is stopped
(``NodeProc.kill_to_rest``).

Only ``extents`` may be touched while the node runs: it is an ordinary buffered file.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sparrow.base.errors import DamagedData
from sparrow.formats.crc32c import crc32c
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.formats.wal import BATCH, BLOCK_BYTES, ENTRY, ENTRY_WRITE, WAL_FORMAT, WAL_MAGIC

PAGE_BYTES = 4096
#: For a flusher that begins a second after the last write.
APPLIED_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundBatch:
    """One whole batch of a log."""

    offset: int
    first_lsn: int
    last_lsn: int
    term: tuple[int, int]
    check: int
    page_count: int
    commit_lsn: int
    entry_count: int

    @property
    def end(self) -> int:
        return self.offset + (1 + self.page_count) * BLOCK_BYTES

    def whole(self, ring: bytes) -> bool:
        """Whether every payload page is as the header says; the header itself was found by its checksum."""
        sums = self.offset + BATCH.size + self.entry_count * ENTRY.size
        return all(
            crc32c(ring[at : at + PAGE_BYTES])
            == int.from_bytes(ring[sums + 4 * n : sums + 4 * n + 4], "little")
            for n, at in enumerate(range(self.offset + BLOCK_BYTES, self.end, PAGE_BYTES))
        )


def wait_applied(pools: Iterable[Path], volume: str) -> None:
    """Until the extents of every pool's replica have all that any of their logs has. Nothing is being written.

    What the log still holds would be put right by the next start, in silence; what is told of a log is of a while ago.
    """
    replicas = [ReplicaFiles(pool, volume) for pool in pools]
    logged = max(files.last_lsn for files in replicas)
    deadline = time.monotonic() + APPLIED_S
    while any(files.superblock["applied_lsn"] < logged for files in replicas):
        assert time.monotonic() < deadline, f"what was written to {volume} is not applied"
        # Another process writes these files, and tells nobody.
        time.sleep(0.05)


def copy_whole(block: bytes) -> bool:
    """Whether a copy of a superblock is as its checksum says."""
    at = SUPERBLOCK.offset_of("check")
    plain = block[:at] + bytes(4) + block[at + 4 :]
    return crc32c(plain) == int.from_bytes(block[at : at + 4], "little")


class ReplicaFiles:
    """``<pool>/volumes/<volume>/<replica>``, the only replica of that volume in the pool."""

    def __init__(self, pool: Path, volume: str) -> None:
        (self.folder,) = [
            path for path in (pool / "volumes" / volume).iterdir() if path.name != "lost+found"
        ]

    @property
    def superblock(self) -> dict[str, int]:
        """The numbers of the copy that counts."""
        raw = (self.folder / "superblock").read_bytes()
        blocks = [raw[at : at + SUPERBLOCK_BYTES] for at in (0, SUPERBLOCK_BYTES)]
        copies = [SUPERBLOCK.unpack(block) for block in blocks if copy_whole(block)]
        newest = max(copies, key=lambda copy: copy.number("sequence"))
        return {name: value for name, value in newest.items() if isinstance(value, int)}

    def batches(self) -> list[FoundBatch]:
        """The log from its tail to its end, as the chain of checks says."""
        return list(self._walk())

    @property
    def last_lsn(self) -> int:
        """Where the log ends."""
        found = self.batches()
        return found[-1].last_lsn if found else self.superblock["tail_lsn"]

    def tear_last_batch(self) -> FoundBatch:
        """Leave the last batch's header and destroy its payload, as a power cut in the middle of the write may."""
        last = [batch for batch in self.batches() if batch.page_count > 0][-1]
        assert last == self.batches()[-1], "the last batch has a payload"
        self._write("wal", last.offset + last.page_count * BLOCK_BYTES, b"\xee" * BLOCK_BYTES)
        return last

    def append_write(self, page: int, content: bytes) -> int:
        """One more batch, as a primary writes it before anybody else has it; its LSN."""
        assert len(content) == PAGE_BYTES
        last = self.batches()[-1]
        fields = self.superblock
        offset = last.end if last.end + 2 * BLOCK_BYTES <= fields["wal_bytes"] else 0
        values: dict[str, int | tuple[int, ...] | bytes] = {
            "magic": int(WAL_MAGIC),
            "check": 0,
            "format": int(WAL_FORMAT),
            "feature_level": fields["feature_level"],
            "volume_key": fields["volume_key"],
            "term_epoch": last.term[0],
            "term_start": last.term[1],
            "first_lsn": last.last_lsn + 1,
            "durable_floor": last.last_lsn,
            "commit_lsn": last.commit_lsn,
            "parent": last.check,
            "entry_count": 1,
            "page_count": 1,
            "header_blocks": 1,
        }
        entry = ENTRY.pack(
            {"kind": int(ENTRY_WRITE), "flags": 0, "page_count": 1, "first_page": page, "aux": 0}
        )
        rest = entry + crc32c(content).to_bytes(4, "little")
        head = (BATCH.pack(values) + rest).ljust(BLOCK_BYTES, b"\0")
        head = (BATCH.pack(values | {"check": crc32c(head)}) + rest).ljust(BLOCK_BYTES, b"\0")
        self._write("wal", offset, head + content)
        assert self.batches()[-1].last_lsn == last.last_lsn + 1, "a batch of the chain"
        return last.last_lsn + 1

    def page(self, number: int) -> bytes:
        """A page of the extent file as it is."""
        with (self.folder / "extents").open("rb") as file:
            file.seek(number * PAGE_BYTES)
            return file.read(PAGE_BYTES)

    def flip_bit(self, page: int, byte: int = 1234) -> None:
        """One bit of a page in the extent file."""
        at = page * PAGE_BYTES + byte
        with (self.folder / "extents").open("rb") as file:
            file.seek(at)
            old = file.read(1)
        self._write("extents", at, bytes([old[0] ^ 0x10]))

    def _walk(self) -> Iterator[FoundBatch]:
        fields = self.superblock
        ring = (self.folder / "wal").read_bytes()
        offset, lsn, check = fields["tail_offset"], fields["tail_lsn"], fields["tail_check"]
        wrapped = False
        while True:
            found = self._next(ring, offset, lsn, check, fields["volume_key"])
            if found is None:
                if wrapped or offset == 0:
                    return
                # A batch that does not fit before the end of the ring begins at its start.
                offset, wrapped = 0, True
                continue
            yield found
            offset, lsn, check, wrapped = found.end, found.last_lsn, found.check, False

    def _next(self, ring: bytes, offset: int, lsn: int, check: int, key: int) -> FoundBatch | None:
        head = ring[offset : offset + BLOCK_BYTES]
        if len(head) < BLOCK_BYTES:
            return None
        try:
            unpacked = BATCH.unpack(head)
        except DamagedData:
            return None
        fields = {name: value for name, value in unpacked.items() if isinstance(value, int)}
        at = BATCH.offset_of("check")
        follows = (
            fields["magic"] == WAL_MAGIC
            and fields["volume_key"] == key
            and fields["first_lsn"] == lsn + 1
            and fields["parent"] == check
            and crc32c(head[:at] + bytes(4) + head[at + 4 :]) == fields["check"]
        )
        if not follows:
            return None
        return FoundBatch(
            offset=offset,
            first_lsn=fields["first_lsn"],
            last_lsn=fields["first_lsn"] + fields["entry_count"] - 1,
            term=(fields["term_epoch"], fields["term_start"]),
            check=fields["check"],
            page_count=fields["page_count"],
            commit_lsn=fields["commit_lsn"],
            entry_count=fields["entry_count"],
        )

    def _write(self, name: str, offset: int, data: bytes) -> None:
        with (self.folder / name).open("r+b") as file:
            file.seek(offset)
            file.write(data)
