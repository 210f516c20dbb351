"""What reading again found: pages, blocks of checksums and batches of the log, compared and mended."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from sparrow.base.ids import Lsn


class DigestOutcome(StrEnum):
    READY = "ready"
    BEHIND = "behind"
    PASSED = "passed"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class PageDigests:
    """CRC32C of each page as of one LSN, u32 little endian each, when the outcome is READY."""

    outcome: DigestOutcome
    digests: bytes
    commit_lsn: Lsn
    applied_lsn: Lsn
    damaged_pages: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsImage:
    """A block of checksums (``formats.sums``) as of one LSN, sealed, when the outcome is READY."""

    outcome: DigestOutcome
    block: bytes
    commit_lsn: Lsn


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsMended:
    """READY: the block is whole now, but for ``lost_pages`` of which nobody had a sum."""

    outcome: DigestOutcome
    lost_pages: int


class AtRest(StrEnum):
    """How something was found on the disk."""

    WHOLE = "whole"
    #: It was damaged, and written again from a whole copy in memory.
    REWRITTEN = "rewritten"
    #: It is damaged; the event that says so was sent before this answer.
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchCheck:
    next_lsn: Lsn
    state: AtRest
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SumsCheck:
    state: AtRest
    lost_pages: int
