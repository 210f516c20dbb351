"""Loader of vectors.toml: strict, so that a misspelt expectation cannot pass by being ignored."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sparrow.authority import engine_types as t
from sparrow.base.ids import Lsn, ReplicaId, VolumeId

EXPECTATIONS = {"mode", "decision", "phase", "emitted", "absent", "traced", "count"}


class BadVector(Exception):
    """The file says something this loader does not understand."""


@dataclass(frozen=True, kw_only=True)
class Vector:
    name: str
    events: tuple[t.EngineEvent, ...]
    expect: dict[str, Any] = field(default_factory=dict)


def load(path: Path) -> list[Vector]:
    return parse(path.read_text())


def parse(text: str) -> list[Vector]:
    data = tomllib.loads(text)
    _only(data, {"version", "case"}, "file")
    if data.get("version") != 1:
        raise BadVector("version is missing or unknown")
    return [_vector(case) for case in data.get("case", [])]


def _vector(case: dict[str, Any]) -> Vector:
    _only(case, {"name", "events", "expect"}, "case")
    if not case.get("name"):
        raise BadVector("a case has no name")
    if not case.get("events"):
        raise BadVector(f"{case['name']} has no events")
    if not case.get("expect"):
        raise BadVector(f"{case['name']} expects nothing")
    _only(case["expect"], EXPECTATIONS, case["name"])
    return Vector(
        name=case["name"],
        events=tuple(_event(dict(row), case["name"]) for row in case["events"]),
        expect=case["expect"],
    )


def _event(row: dict[str, Any], where: str) -> t.EngineEvent:
    kind = row.pop("kind", None)
    if kind not in _KINDS:
        raise BadVector(f"{where}: kind {kind!r}")
    replica = ReplicaId(row.pop("replica", "r2"))
    make, names = _KINDS[kind]
    _only(row, set(names), f"{where}.{kind}")
    return make(replica_id=replica, **{names[key]: value for key, value in row.items()})


def _only(row: dict[str, Any], allowed: set[str], where: str) -> None:
    unknown = set(row) - allowed
    if unknown:
        raise BadVector(f"{where}: unknown {', '.join(sorted(unknown))}")


def _assignment(**values: Any) -> t.EngineEvent:
    return t.AssignmentObserved(
        volume_id=VolumeId("v1"), data_addr="d:1", ctrl_addr="c:1", **values
    )


def _prepared(*, session_kind: str, **values: Any) -> t.EngineEvent:
    return t.SessionPrepared(kind=t.SessionKind(session_kind), **values)


def _failed(*, failure: str, **values: Any) -> t.EngineEvent:
    return t.SessionClosedFailed(kind=t.FailureKind(failure), **values)


def _refused(*, refusal: str, **values: Any) -> t.EngineEvent:
    return t.JoinRefused(refusal=t.JoinRefusal(refusal), **values)


def _facts(kind: type[t.Joined] | type[t.DurableAckObserved]) -> Callable[..., t.EngineEvent]:
    def make(*, peer: int, oldest: int, head: int, **values: Any) -> t.EngineEvent:
        return kind(peer_lsn=Lsn(peer), oldest_lsn=Lsn(oldest), head_lsn=Lsn(head), **values)

    return make


_LINEAGE = {"epoch": "epoch", "endpoint_version": "endpoint_version"}
_PROBE = {"endpoint_version": "endpoint_version", "transport_epoch": "transport_epoch"}
_RSH = {"r": "peer", "s": "oldest", "h": "head"}
_SESSION = {"session": "session_id"}

_KINDS: dict[str, tuple[Callable[..., t.EngineEvent], dict[str, str]]] = {
    "assignment": (_assignment, {**_LINEAGE, "in_sync": "in_sync"}),
    "removed": (t.ReplicaRemoved, {}),
    "probe_succeeded": (t.ProbeSucceeded, _PROBE),
    "probe_failed": (t.ProbeFailed, _PROBE),
    "joined": (_facts(t.Joined), {**_RSH, **_PROBE}),
    "join_refused": (_refused, {"refusal": "refusal"}),
    "ack": (_facts(t.DurableAckObserved), {**_RSH, **_PROBE, "grant": "grant_held"}),
    "prepared": (_prepared, {**_SESSION, "session_kind": "session_kind", "hint": "frontier_hint"}),
    "started": (t.SessionStarted, _SESSION),
    "progress": (t.SessionProgressObserved, {**_SESSION, "achieved": "achieved_lsn"}),
    "completed": (t.SessionClosedCompleted, {**_SESSION, "achieved": "achieved_lsn"}),
    "failed": (_failed, {**_SESSION, "failure": "failure", "text": "text"}),
    "invalidated": (t.SessionInvalidated, _SESSION),
    "fence_completed": (t.FenceCompleted, _LINEAGE),
    "fence_failed": (t.FenceFailed, _LINEAGE),
    "pending": (t.PeerPending, {"frozen": "frozen_lsn"}),
    "grow_asked": (t.GrowAsked, {"basis": "basis_endpoint_version"}),
    "grow_refused": (t.GrowRefused, {"basis": "basis_endpoint_version"}),
}
