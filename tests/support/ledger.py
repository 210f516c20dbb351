"""What a client knows about a volume: every write it sent, every write that was acknowledged, everything it read.

Each page is a register. Every write has a version of its own, and every page of it carries that version, the page's
number and a checksum, so any page that is read says which write it came from. What must hold of a page that is read:

- an acknowledged write is there, or a newer one that was sent;
- an unacknowledged write may be there or not, but once it was read it stays;
- nothing is there that was never sent to that page.

At most one write of a page may be in flight per session; the order of versions is then the order of writes.
Any thread may call.
"""

from __future__ import annotations

import random
import struct
import threading
import zlib
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

PAGE_BYTES: Final = 4096

_HEAD: Final = struct.Struct("<8sQQQI4x")
_MAGIC: Final = b"LEDGERPG"
_FILL_BYTES: Final = PAGE_BYTES - _HEAD.size
_BLOB_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A page that breaks a promise.

    ``kind``: ``lost`` when an acknowledged write is gone from the volume, or its page is unreadable or mixed up;
    ``stale`` when an answer was older than what the client knew already.
    """

    kind: str
    page: int
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """What was known of some pages when a read was sent."""

    page: int
    known: tuple[tuple[int, int], ...]


class Ledger:
    """One volume's record. ``seed`` makes the content; two ledgers never take each other's pages for theirs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.faults: list[Fault] = []
        self.acked_writes = 0
        self._blob = random.Random(seed).randbytes(_BLOB_BYTES)
        self._version = 0
        self._lock = threading.Lock()
        self._flying: dict[int, tuple[int, int]] = {}
        self._sent: defaultdict[int, list[int]] = defaultdict(list)
        self._acked: dict[int, int] = {}
        self._seen: dict[int, int] = {}

    def begin_write(self, page: int, pages: int) -> tuple[int, bytes]:
        """A new version of some pages, and its bytes; call it just before they are sent."""
        with self._lock:
            self._version += 1
            version = self._version
            self._flying[version] = page, pages
            for number in range(page, page + pages):
                self._sent[number].append(version)
        return version, b"".join(self.content(n, version) for n in range(page, page + pages))

    def acknowledge(self, version: int) -> None:
        """The target said GOOD to it."""
        with self._lock:
            page, pages = self._flying.pop(version)
            self.acked_writes += 1
            for number in range(page, page + pages):
                self._acked[number] = max(version, self._acked.get(number, 0))

    def begin_read(self, page: int, pages: int) -> Basis:
        """What the answer will be held against; call it just before the read is sent."""
        with self._lock:
            known = tuple(
                (self._acked.get(n, 0), self._seen.get(n, 0)) for n in range(page, page + pages)
            )
        return Basis(page=page, known=known)

    def check(self, basis: Basis, data: bytes, *, at_rest: bool = False) -> list[Fault]:
        """Hold an answer against what was known; new faults, which are kept in ``faults`` too.

        ``at_rest``: no write was in flight anywhere, so what is missing is gone for good.
        """
        assert len(data) == len(basis.known) * PAGE_BYTES
        found = []
        with self._lock:
            for index, (acked, seen) in enumerate(basis.known):
                page = basis.page + index
                content = data[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
                version = self._version_of(page, content)
                if isinstance(version, str):
                    found.append(Fault(kind="lost", page=page, detail=version))
                    continue
                if version < max(acked, seen):
                    kind = "lost" if at_rest and version < acked else "stale"
                    detail = f"version {version} where {acked} was acknowledged, {seen} was read"
                    found.append(Fault(kind=kind, page=page, detail=detail))
                self._seen[page] = max(version, self._seen.get(page, 0))
            self.faults += found
        return found

    def extents(self, pages_max: int) -> Iterator[tuple[int, int]]:
        """Everything that was ever written to, as (page, pages), in order."""
        with self._lock:
            numbers = sorted(self._sent)
        start = 0
        while start < len(numbers):
            end = start + 1
            while (
                end < len(numbers)
                and numbers[end] == numbers[end - 1] + 1
                and end - start < pages_max
            ):
                end += 1
            yield numbers[start], end - start
            start = end

    def content(self, page: int, version: int) -> bytes:
        """The bytes of one page in one version."""
        at = (page * 4099 + version * 977) % (_BLOB_BYTES - _FILL_BYTES)
        fill = self._blob[at : at + _FILL_BYTES]
        check = zlib.crc32(fill, zlib.crc32(struct.pack("<QQ", page, version)))
        return _HEAD.pack(_MAGIC, self.seed, page, version, check) + fill

    def count(self, kind: str) -> int:
        """Faults of one kind so far."""
        return sum(fault.kind == kind for fault in self.faults)

    def _version_of(self, page: int, content: bytes) -> int | str:
        """Which write a page came from, 0 for none; or a sentence that says what is wrong with it."""
        if not content.strip(b"\0"):
            return 0
        magic, seed, number, version, _check = _HEAD.unpack_from(content)
        if magic != _MAGIC or seed != self.seed:
            return f"no page of ours: {content[:16].hex()}"
        if number != page:
            return f"the content of page {number}, version {version}"
        if content != self.content(page, version):
            return f"version {version} with damaged content"
        sent = self._sent[page]
        at = bisect_left(sent, version)
        if at == len(sent) or sent[at] != version:
            return f"version {version}, which was never written there"
        return int(version)
