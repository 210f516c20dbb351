"""The log of the model twin: batches with terms and parents, in memory, with the same rules as the real one.

One batch holds one entry. Batches travel as JSON lines; the real bytes are declared in ``formats.wal``.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass, field

from sparrow.authority.types import Term
from sparrow.base.errors import DamagedData, NotFound
from sparrow.base.ids import Epoch, Lsn
from sparrow.ports.dataplane import LogSummary, TermRow

NO_TERM = Term(epoch=Epoch(0), start=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One entry: a page; with ``zeros`` that many pages become zero, and no data.

    ``page`` None is the term-start entry, a resize to ``size`` bytes, or with ``data`` a table of reservations.
    """

    term: Term
    lsn: Lsn
    parent: int
    page: int | None
    data: bytes
    zeros: int = 0
    size: int = 0

    @property
    def check(self) -> int:
        where = f"{self.term.epoch}/{self.term.start}/{self.lsn}/{self.parent}"
        head = f"{where}/{self.page}/{self.zeros}/{self.size}/"
        return zlib.crc32(head.encode() + self.data)

    def encode(self) -> bytes:
        row = [
            self.term.epoch,
            self.term.start,
            self.lsn,
            self.parent,
            self.page,
            base64.b64encode(self.data).decode(),
            self.zeros,
            self.size,
        ]
        return json.dumps(row).encode() + b"\n"


def decode_batches(data: bytes) -> list[Batch]:
    """Raises: DamagedData."""
    batches = []
    for line in data.splitlines():
        try:
            epoch, start, lsn, parent, page, payload, zeros, size = json.loads(line)
        except ValueError:
            raise DamagedData("A batch that cannot be read.") from None
        batches.append(
            Batch(
                term=Term(epoch=epoch, start=start),
                lsn=lsn,
                parent=parent,
                page=page,
                data=base64.b64decode(payload),
                zeros=zeros,
                size=size,
            )
        )
    return batches


@dataclass(slots=True)
class ModelLog:
    """Batches above ``base_lsn``; what is at or below it lives in ``pages`` only.

    ``base_rows`` is the term table up to ``base_lsn``, ``base_check`` the checksum of the batch that ended there.
    """

    base_lsn: Lsn = Lsn(0)
    base_check: int = 0
    base_rows: tuple[TermRow, ...] = ()
    pages: dict[int, bytes] = field(default_factory=dict)
    batches: list[Batch] = field(default_factory=list)
    #: LSN and size of every resize, the base's first.
    sizes: list[tuple[Lsn, int]] = field(default_factory=list)
    #: LSN and content of every table of reservations, the base's first.
    tables: list[tuple[Lsn, bytes]] = field(default_factory=list)
    #: Entries above are written, and no flush has made them durable yet; None when all are durable.
    undurable_after: Lsn | None = None
    #: A crash took entries away that were not durable: told once, when the replica is opened.
    torn: bool = False
    #: The term table, kept between changes: it is asked for with every heartbeat.
    _rows: tuple[TermRow, ...] | None = None

    @property
    def last_lsn(self) -> Lsn:
        return self.batches[-1].lsn if self.batches else self.base_lsn

    @property
    def durable_lsn(self) -> Lsn:
        if self.undurable_after is None:
            return self.last_lsn
        return min(self.undurable_after, self.last_lsn)

    @property
    def last_check(self) -> int:
        return self.batches[-1].check if self.batches else self.base_check

    @property
    def last_term(self) -> Term:
        if self.batches:
            return self.batches[-1].term
        return self.base_rows[-1].term if self.base_rows else NO_TERM

    def size_at(self, lsn: Lsn) -> int:
        """What resizes up to there made of the volume; 0 without one."""
        return max((size for at, size in self.sizes if at <= lsn), default=0)

    def table_at(self, lsn: Lsn) -> tuple[Lsn, bytes | None]:
        """The newest table of reservations up to there; 0 and None without one."""
        found: list[tuple[Lsn, bytes | None]] = [(Lsn(0), None)]
        found += [(at, table) for at, table in self.tables if at <= lsn]
        return found[-1]

    def rows(self) -> tuple[TermRow, ...]:
        """The term table, oldest first."""
        if self._rows is None:
            self._rows = self._make_rows()
        return self._rows

    def _make_rows(self) -> tuple[TermRow, ...]:
        rows = self.base_rows
        for batch in self.batches:
            rows = _with(rows, batch)
        return rows

    def append(self, batch: Batch) -> None:
        """Raises: DamagedData: it does not follow the last one."""
        follows = batch.lsn == self.last_lsn + 1 and batch.parent == self.last_check
        if not follows or batch.term < self.last_term:
            raise DamagedData(f"Batch {batch.lsn} does not follow {self.last_lsn}.")
        self.batches.append(batch)
        if batch.size:
            self.sizes.append((batch.lsn, batch.size))
        if batch.page is None and batch.data and batch.lsn > self.table_at(batch.lsn)[0]:
            self.tables.append((batch.lsn, batch.data))
        if self._rows is not None:
            self._rows = _with(self._rows, batch)

    def cut(self, lsn: Lsn) -> None:
        """Forget everything above ``lsn``."""
        assert lsn >= self.base_lsn
        del self.batches[lsn - self.base_lsn :]
        self.sizes = [(at, size) for at, size in self.sizes if at <= lsn]
        self.tables = [(at, table) for at, table in self.tables if at <= lsn]
        self._rows = None

    def flush(self) -> None:
        """Make everything durable."""
        self.undurable_after = None

    def crash(self, survives: Lsn) -> None:
        """The process or its machine is gone: what was not durable is there up to ``survives`` only."""
        end = max(self.durable_lsn, min(survives, self.last_lsn))
        self.torn = end < self.last_lsn
        self.cut(end)
        self.undurable_after = None

    def recycle(self, lsn: Lsn) -> None:
        """Let go of the batches up to ``lsn``, all committed."""
        keep = [row for row in self.rows() if row.first_lsn <= lsn]
        rows = [
            TermRow(term=r.term, first_lsn=r.first_lsn, last_lsn=Lsn(min(r.last_lsn, lsn)))
            for r in keep
        ]
        check = self.check_at(lsn)
        assert check is not None
        self.pages = self.view(lsn)
        self.batches = self.batches[lsn - self.base_lsn :]
        self.base_lsn, self.base_check, self.base_rows = lsn, check, tuple(rows)
        self._rows = None

    def check_at(self, lsn: Lsn) -> int | None:
        if lsn == self.base_lsn:
            return self.base_check
        if not self.base_lsn < lsn <= self.last_lsn:
            return None
        return self.batches[lsn - self.base_lsn - 1].check

    def read(self, from_lsn: Lsn, *, bytes_max: int) -> bytes:
        """Raises: NotFound: recycled."""
        if from_lsn <= self.base_lsn:
            raise NotFound(f"Entry {from_lsn} is not in the log any more.")
        out = b""
        for batch in self.batches[from_lsn - self.base_lsn - 1 :]:
            encoded = batch.encode()
            if out and len(out) + len(encoded) > bytes_max:
                break
            out += encoded
        return out

    def view(self, lsn: Lsn) -> dict[int, bytes]:
        """All pages as of ``lsn``."""
        pages = dict(self.pages)
        for batch in self.batches:
            if batch.lsn > lsn:
                break
            if batch.page is not None and batch.zeros:
                for page in [p for p in pages if batch.page <= p < batch.page + batch.zeros]:
                    del pages[page]
            elif batch.page is not None:
                pages[batch.page] = batch.data
        return pages

    def touched(self, after: Lsn, to: Lsn) -> set[int]:
        """Pages of the entries in (``after``, ``to``]."""
        return {
            page
            for b in self.batches
            if b.page is not None and after < b.lsn <= to
            for page in range(b.page, b.page + (b.zeros or 1))
        }

    def common_with(self, other: LogSummary) -> Lsn | None:
        """The last LSN that both logs can have in common, None when there is none."""
        rows = self.rows()
        if not rows:
            return Lsn(0)
        theirs = {row.term: row for row in other.terms}
        for row in reversed(rows):
            if row.term in theirs:
                common = min(row.last_lsn, theirs[row.term].last_lsn)
                if common == other.last_lsn and self.check_at(Lsn(common)) != other.last_check:
                    return None
                return Lsn(common)
        return None


def _with(rows: tuple[TermRow, ...], batch: Batch) -> tuple[TermRow, ...]:
    """The term table after one more batch."""
    if rows and rows[-1].term == batch.term:
        last = TermRow(term=batch.term, first_lsn=rows[-1].first_lsn, last_lsn=batch.lsn)
        return (*rows[:-1], last)
    return (*rows, TermRow(term=batch.term, first_lsn=batch.lsn, last_lsn=batch.lsn))
