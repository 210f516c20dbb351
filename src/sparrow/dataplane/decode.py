"""What the core reports, from flat u64 words to values."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sparrow.authority.types import ReplicaState, Term
from sparrow.base.ids import Epoch, Lsn, ReplicaUuid, VolumeId
from sparrow.formats.superblock import (
    STATE_CLEAN,
    STATE_CONDEMNED,
    STATE_QUARANTINED,
    STATE_REBUILDING,
    STATE_RETIRED,
)
from sparrow.ports.dataplane import (
    Absence,
    FenceReport,
    LogSummary,
    PeerPhase,
    PeerStatus,
    RebuildKind,
    TermRow,
    VolumeStatus,
)

STATES: dict[int, ReplicaState] = {
    STATE_CLEAN: ReplicaState.CLEAN,
    STATE_REBUILDING: ReplicaState.REBUILDING,
    STATE_QUARANTINED: ReplicaState.QUARANTINED,
    STATE_CONDEMNED: ReplicaState.CONDEMNED,
    STATE_RETIRED: ReplicaState.RETIRED,
}
STATE_NUMBERS = {state: int(number) for number, state in STATES.items()}
NO_TERM = Term(epoch=Epoch(0), start=0)
NONE_U64 = 0xFFFF_FFFF_FFFF_FFFF
SUMMARY_WORDS = 10
STATUS_WORDS = 13
PEER_WORDS = 13
ABSENCE_WORDS = 4
FENCE_WORDS = 4


def words_of(payload: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(payload) // 8}Q", payload)


def decode_summary(words: tuple[int, ...], uuid: ReplicaUuid) -> LogSummary:
    """Ten fixed words (control/report.pyx), then three per term."""
    state, suspect, last_lsn, last_check, oldest, durable, commit, applied, must_reach, rows = (
        words[:SUMMARY_WORDS]
    )
    starts = [words[SUMMARY_WORDS + 3 * i : SUMMARY_WORDS + 3 * i + 3] for i in range(rows)]
    ends = [first - 1 for _, _, first in starts[1:]] + [last_lsn]
    terms = tuple(
        TermRow(term=Term(epoch=Epoch(epoch), start=start), first_lsn=Lsn(first), last_lsn=Lsn(end))
        for (epoch, start, first), end in zip(starts, ends, strict=False)
    )
    return LogSummary(
        uuid=uuid,
        terms=terms,
        last_term=terms[-1].term if terms else NO_TERM,
        last_lsn=Lsn(last_lsn),
        last_check=last_check,
        oldest_lsn=Lsn(oldest),
        durable_lsn=Lsn(durable),
        commit_lsn=Lsn(commit),
        applied_lsn=Lsn(applied),
        must_reach_lsn=Lsn(must_reach),
        state=STATES[state],
        suspect=bool(suspect),
    )


def decode_fence(
    words: tuple[int, ...], uuid: ReplicaUuid, term: Term, *, promise_ns: int, older_ns: int
) -> FenceReport:
    """A summary, then the term promised before the fencing one and the replica's own last term as primary."""
    prior_epoch, prior_start, own_epoch, own_start = words[-FENCE_WORDS:]
    own = Term(epoch=Epoch(own_epoch), start=own_start)
    return FenceReport(
        log=decode_summary(words[:-FENCE_WORDS], uuid),
        promise_ms=_ms(promise_ns),
        promised_epoch=term.epoch,
        promised_to=Term(epoch=Epoch(prior_epoch), start=prior_start) if prior_epoch else None,
        older_promise_ms=_ms(older_ns),
        closed=own if own_epoch and own < term else None,
    )


def _ms(ns: int) -> int:
    """Rounded up: a millisecond too long costs nothing, one too short is a stale read."""
    return -(-ns // 1_000_000)


def decode_statuses(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """Index and words of each volume; the list ends with index 0."""
    at = 0
    while True:
        (index,) = struct.unpack_from("<Q", payload, at)
        if index == 0:
            return
        (words,) = struct.unpack_from("<Q", payload, at + 8)
        yield index, payload[at + 16 : at + 16 + 8 * words]
        at += 16 + 8 * words


def decode_status(payload: bytes, volume_id: VolumeId, uuid: ReplicaUuid) -> VolumeStatus:
    words = words_of(payload)
    (
        epoch,
        start,
        promised,
        flags,
        sessions,
        silent,
        reads,
        writes,
        read_bytes,
        written_bytes,
        peers,
        own_lag,
        absences,
    ) = words[:STATUS_WORDS]
    summary = words[STATUS_WORDS:]
    log = decode_summary(summary, uuid)
    rest = summary[SUMMARY_WORDS + 3 * len(log.terms) :]
    maps = rest[PEER_WORDS * peers :]
    return VolumeStatus(
        volume_id=volume_id,
        term=Term(epoch=Epoch(epoch), start=start) if flags & 2 else NO_TERM,
        promised_epoch=Epoch(promised),
        gate_open=bool(flags & 1),
        log=log,
        disk_failed=bool(flags & 4),
        pool_full=bool(flags & 8),
        frozen=bool(flags & 16),
        sessions=sessions,
        primary_silent_ms=None if silent == NONE_U64 else silent,
        peers=tuple(
            _decode_peer(rest[PEER_WORDS * i : PEER_WORDS * (i + 1)]) for i in range(peers)
        ),
        reads=reads,
        writes=writes,
        read_bytes=read_bytes,
        written_bytes=written_bytes,
        own_lag_ms=own_lag,
        absences=tuple(
            _decode_absence(maps[ABSENCE_WORDS * i : ABSENCE_WORDS * (i + 1)])
            for i in range(absences)
        ),
    )


def _decode_peer(words: tuple[int, ...]) -> PeerStatus:
    (
        slot,
        phase,
        acked,
        shipped,
        flags,
        silent,
        base_done,
        base_total,
        kind,
        log,
        base,
        lag,
        worst,
    ) = words
    return PeerStatus(
        slot=slot,
        phase=PeerPhase(phase),
        acked_lsn=Lsn(acked),
        shipped_lsn=Lsn(shipped),
        granted=bool(flags & 1),
        pool_full=bool(flags & 2),
        silent_ms=silent,
        base_pages_done=base_done,
        base_pages_total=base_total,
        lag_ms=lag,
        worst_ack_ms=worst,
        rebuild_kind=RebuildKind(kind) if kind else None,
        log_bytes=log,
        base_bytes=base,
    )


def _decode_absence(words: tuple[int, ...]) -> Absence:
    uuid = struct.pack("<2Q", *words[:2]).hex()
    return Absence(uuid=ReplicaUuid(uuid), from_lsn=Lsn(words[2]), changed_granules=words[3])
