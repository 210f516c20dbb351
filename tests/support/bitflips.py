"""Bit flips in the files of replicas: chosen so that some replica is left with a good copy, and judged at the end.

A flip hits a unit: a page of the extents, a block of checksums, a batch of the log, a copy of the superblock; or
nothing that anybody will ever read (a hole, free space of the ring). Units of one round are shared out between the
replicas: a page, block or batch belongs to one of them, and only there it may be hit. So everything has a good copy
somewhere, and whatever is not repaired in the end is a fault.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sparrow.formats.crc32c import crc32c
from sparrow.formats.sums import PAGES_PER_BLOCK
from sparrow.formats.superblock import SUPERBLOCK_BYTES, TABLE_SLOTS_OFFSET
from tests.support.replica_files import PAGE_BYTES, FoundBatch, ReplicaFiles, copy_whole

#: How many of a hundred flips go where.
SHARES: Final = {"extents": 50, "sums": 20, "wal": 25, "superblock": 5}
TRIES: Final = 10_000
#: So many of them go where something is; the others go anywhere.
AIMED: Final = 0.85


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """One bit. ``unit`` names what it hit, None for nothing that is read."""

    node: str
    file: str
    offset: int
    bit: int
    unit: tuple[str, int] | None


class Flipper:
    """Flips bits of the replicas of one volume.

    Args:
        files: the replica of each node.
        used: pages that were written.
        right: what a page must hold.
    """

    def __init__(
        self,
        files: dict[str, ReplicaFiles],
        used: frozenset[int],
        right: Callable[[int], bytes],
        seed: int,
    ) -> None:
        self.files = files
        self.flips: list[Flip] = []
        self._used = used
        self._pages = sorted(used)
        self._right = right
        self._batches: dict[str, list[FoundBatch]] = {}
        self._random = random.Random(seed)
        self._names = sorted(files)
        self._owner_shift = 0
        #: Copies of the superblock that were hit in this round, one of each replica at most.
        self._copies: set[str] = set()

    def new_round(self) -> None:
        """Everything is whole: share the units out anew."""
        self._owner_shift += 1
        self._copies.clear()
        self._batches.clear()

    def flip(self, nodes: tuple[str, ...], count: int) -> None:
        """So many flips, on these nodes."""
        kinds = self._random.choices(list(SHARES), weights=list(SHARES.values()), k=count)
        for kind in kinds:
            node = self._random.choice(nodes)
            again = kind == "superblock" and node in self._copies
            self._one(node, "extents" if again else kind)

    def _one(self, node: str, kind: str) -> None:
        files = self.files[node]
        path = files.folder / kind
        size = path.stat().st_size
        if kind == "wal" and not self._batches:
            self._batches = {name: held.batches() for name, held in self.files.items()}
        batches = self._batches.get(node, [])
        aimed = self._random.random() < AIMED
        for turn in range(TRIES):
            # A short log may hold no batch that this replica owns.
            aim = aimed and turn < TRIES // 10
            offset = self._aim(kind, size, batches) if aim else self._random.randrange(size)
            unit = self._unit(kind, offset, batches)
            if unit is not None and kind != "superblock" and not self._owns(node, kind, unit[1]):
                continue
            if kind == "superblock" and unit is not None:
                self._copies.add(node)
            bit = self._random.randrange(8)
            _flip(path, offset, bit)
            self.flips.append(Flip(node=node, file=kind, offset=offset, bit=bit, unit=unit))
            return
        raise AssertionError(f"nothing of {node}'s {kind} may be hit")

    def _aim(self, kind: str, size: int, batches: list[FoundBatch]) -> int:
        """Somewhere in what is used of a file, not in holes and free space."""
        if kind == "extents":
            page = self._random.choice(self._pages)
            return page * PAGE_BYTES + self._random.randrange(PAGE_BYTES)
        if kind == "wal" and batches:
            batch = self._random.choice(batches)
            return self._random.randrange(batch.offset, batch.end)
        return self._random.randrange(TABLE_SLOTS_OFFSET if kind == "superblock" else size)

    def _unit(self, kind: str, offset: int, batches: list[FoundBatch]) -> tuple[str, int] | None:
        if kind == "extents":
            page = offset // PAGE_BYTES
            return ("page", page) if page in self._used else None
        if kind == "sums":
            return "block", offset // PAGE_BYTES
        if kind == "superblock":
            # The slots behind the copies hold nothing: no volume here has reservations.
            return ("copy", offset // SUPERBLOCK_BYTES) if offset < TABLE_SLOTS_OFFSET else None
        for batch in batches:
            if batch.offset <= offset < batch.end:
                return "batch", batch.first_lsn
        return None

    def _owns(self, node: str, kind: str, number: int) -> bool:
        """Pages are shared out by the block that has their sums: two damaged replicas of one page are one too many."""
        if kind == "wal" and not any(
            batch.first_lsn == number
            for name, batches in self._batches.items()
            for batch in batches
            if name != node
        ):
            # The others have let it go: there is no good copy.
            return False
        unit = number // PAGES_PER_BLOCK if kind == "extents" else number
        return self._names[(unit + self._owner_shift) % len(self._names)] == node

    def hits(self) -> Counter[str]:
        """Flips by file."""
        return Counter(flip.file for flip in self.flips)

    def unused(self) -> Counter[str]:
        """Of them, those that hit nothing that is read."""
        return Counter(flip.file for flip in self.flips if flip.unit is None)

    def unrepaired(self) -> list[Flip]:
        """Flips whose unit is still damaged on the disk, judged without the program's help."""
        return [
            flip
            for name in self._names
            for flip in self._damaged(self.files[name], [f for f in self.flips if f.node == name])
        ]

    def _damaged(self, files: ReplicaFiles, flips: list[Flip]) -> list[Flip]:
        ring = (files.folder / "wal").read_bytes()
        # What was let go, or overwritten since, is not of the log any more.
        torn = {batch.first_lsn for batch in files.batches() if not batch.whole(ring)}
        key = files.superblock["volume_key"].to_bytes(8, "little")
        found = []
        for flip in flips:
            kind, number = flip.unit or ("", 0)
            if (
                (kind == "page" and files.page(number) != self._right(number))
                or (kind == "block" and not _block_whole(files, key, number))
                or (kind == "copy" and not copy_whole(_copy(files, number)))
                or (kind == "batch" and number in torn)
            ):
                found.append(flip)
        return found


def _flip(path: Path, offset: int, bit: int) -> None:
    fd = os.open(path, os.O_RDWR)
    try:
        (byte,) = os.pread(fd, 1, offset)
        os.pwrite(fd, bytes([byte ^ 1 << bit]), offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def _block_whole(files: ReplicaFiles, key: bytes, number: int) -> bool:
    with (files.folder / "sums").open("rb") as file:
        file.seek(number * PAGE_BYTES)
        block = file.read(PAGE_BYTES)
    seed = crc32c(key + number.to_bytes(8, "little"))
    return crc32c(block[4:], seed) == int.from_bytes(block[:4], "little")


def _copy(files: ReplicaFiles, number: int) -> bytes:
    raw = (files.folder / "superblock").read_bytes()
    return raw[number * SUPERBLOCK_BYTES : (number + 1) * SUPERBLOCK_BYTES]
