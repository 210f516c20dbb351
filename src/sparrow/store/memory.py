"""The master's store in memory: the same rows, the same refusals, and faults on demand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sparrow.authority.floor import floor_of
from sparrow.authority.recovery import AuditEntry, Mark, Recovered
from sparrow.authority.types import DesiredVolume, Line, LoadedLines, SkippedRecord
from sparrow.base.access import Secret
from sparrow.base.errors import AlreadyExists, NotFound
from sparrow.base.ids import NodeId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord
from sparrow.ports.store import LoadedNodes, LoadedSecrets, LoadedVolumes
from sparrow.store.errors import (
    NotNewer,
    PolicyFixed,
    PutError,
    StoreClosed,
    StoreLockHeld,
    StoreUnusable,
    taken_over,
)
from sparrow.store.rows import (
    LineRow,
    Row,
    believable_epoch,
    line_row,
    loaded_secrets,
    node_row,
    read_line_row,
    read_node_row,
    read_volume_row,
    secret_row,
    volume_row,
)


@dataclass(slots=True, kw_only=True)
class MemoryDisk:
    """What survives a ``MemoryStore``: open another one on it to restart."""

    cluster_id: str = "0" * 31 + "1"
    generation: int = 0
    epoch_floor: int = 0
    lines: dict[VolumeId, LineRow] = field(default_factory=dict)
    previous: dict[VolumeId, str] = field(default_factory=dict)
    volumes: dict[VolumeId, Row] = field(default_factory=dict)
    nodes: dict[NodeId, Row] = field(default_factory=dict)
    secrets: dict[str, Row] = field(default_factory=dict)
    topology_version: int = 0
    marks: dict[VolumeId, Mark] = field(default_factory=dict)
    awaited: tuple[str, ...] = ()
    audit: list[AuditEntry] = field(default_factory=list)
    damaged: list[LineRow] = field(default_factory=list)
    locked: bool = False
    #: Causes of the next changes' failures, in order; None lets one pass.
    faults: list[str | None] = field(default_factory=list)

    def fail_next(self, cause: str = "no space left on device", *, times: int = 1) -> None:
        """Let the next changes fail as a full disk would."""
        self.faults.extend([cause] * times)

    def damage_line(self, volume_id: VolumeId) -> None:
        """Flip one character of a stored line's record."""
        row = self.lines[volume_id]
        assert isinstance(row.body, str), "written by us"
        self.lines[volume_id] = replace(row, body=row.body[:-2] + "?" + row.body[-1:])

    def damage_volume(self, volume_id: VolumeId) -> None:
        """The same of what is wanted of a volume."""
        self.volumes[volume_id] = _damaged(self.volumes[volume_id])

    def damage_node(self, node_id: NodeId) -> None:
        """The same of what is wanted of a node."""
        self.nodes[node_id] = _damaged(self.nodes[node_id])

    def crash(self) -> None:
        """Drop the lock as the kernel does when its holder dies."""
        self.locked = False


class MemoryStore:
    """``ports.store.AuthorityStore`` on a ``MemoryDisk``."""

    def __init__(self, disk: MemoryDisk | None = None) -> None:
        self.disk = MemoryDisk() if disk is None else disk
        if self.disk.locked:
            raise StoreLockHeld("the store in memory is in use by this process")
        self.disk.locked = True
        self._closed = False
        self._generation: int | None = None
        self._changes = 0

    @property
    def cluster_id(self) -> str:
        return self.disk.cluster_id

    def raise_generation(self) -> int:
        self._before_change()
        self.disk.generation += 1
        self._generation = self.disk.generation
        return self.disk.generation

    @property
    def epoch_floor(self) -> int:
        self._check_open()
        return self.disk.epoch_floor

    def load_with_skips(self) -> LoadedLines:
        self._check_open()
        lines: list[Line] = []
        skips: list[SkippedRecord] = []
        for _, row in sorted(self.disk.lines.items()):
            found = read_line_row(row)
            if isinstance(found, Line):
                lines.append(found)
            else:
                skips.extend(found)
        doubted = {skip.volume_id for skip in skips}
        return LoadedLines(
            lines=tuple(line for line in lines if line.volume_id not in doubted),
            skips=tuple(skips),
        )

    def put_lines(self, lines: Sequence[Line]) -> None:
        self._before_change()
        rows = dict(self.disk.lines)
        previous = dict(self.disk.previous)
        for line in lines:
            row, held = line_row(line), rows.get(line.volume_id)
            if held is not None:
                if not (_order(row) > _order(held) and _count(row) > _count(held)):
                    raise NotNewer("the stored line is not older than the one to be put")
                _check_policy(str(held.body), str(row.body))
                previous[line.volume_id] = str(held.body)
            rows[line.volume_id] = row
        self.disk.lines, self.disk.previous = rows, previous

    @property
    def topology_version(self) -> int:
        self._check_open()
        return self.disk.topology_version

    def load_nodes(self) -> LoadedNodes:
        self._check_open()
        found = [read_node_row(row) for _, row in sorted(self.disk.nodes.items())]
        return LoadedNodes(
            nodes=tuple(one for one in found if isinstance(one, NodeRecord)),
            damaged=tuple(one for one in found if not isinstance(one, NodeRecord)),
        )

    def put_node(self, record: NodeRecord) -> None:
        self._before_change()
        self.disk.nodes[record.node_id] = node_row(record)
        self.disk.topology_version += 1

    def load_secrets(self) -> LoadedSecrets:
        self._check_open()
        return loaded_secrets(row for _, row in sorted(self.disk.secrets.items()))

    def put_secret(self, secret: Secret) -> None:
        self._before_change()
        self.disk.secrets[secret.name] = secret_row(secret)

    def delete_secret(self, name: str) -> None:
        self._before_change()
        self.disk.secrets.pop(name, None)

    def load_volumes(self) -> LoadedVolumes:
        self._check_open()
        volumes: list[DesiredVolume] = []
        skips: list[SkippedRecord] = []
        for _, row in sorted(self.disk.volumes.items()):
            found = read_volume_row(row)
            if isinstance(found, DesiredVolume):
                volumes.append(found)
            else:
                skips.append(found)
        return LoadedVolumes(volumes=tuple(volumes), skips=tuple(skips))

    def create_volume(self, volume: DesiredVolume) -> None:
        self._before_change()
        if volume.volume_id in self.disk.volumes:
            raise AlreadyExists(f"volume {volume.volume_id} exists already")
        self.disk.volumes[volume.volume_id] = volume_row(volume)
        self.disk.topology_version += 1

    def update_volume(self, volume: DesiredVolume) -> None:
        self._before_change()
        if volume.volume_id not in self.disk.volumes:
            raise NotFound(f"volume {volume.volume_id} does not exist")
        row = volume_row(volume)
        _check_policy(str(self.disk.volumes[volume.volume_id].body), str(row.body))
        self.disk.volumes[volume.volume_id] = row
        self.disk.topology_version += 1

    def delete_volume(self, volume_id: VolumeId) -> None:
        self._before_change()
        self.disk.volumes.pop(volume_id, None)
        self.disk.topology_version += 1

    def previous_records(self, volume_ids: Sequence[VolumeId]) -> dict[VolumeId, str]:
        self._check_open()
        return {one: self.disk.previous[one] for one in volume_ids if one in self.disk.previous}

    @property
    def empty(self) -> bool:
        disk = self.disk
        return not (disk.generation or disk.lines or disk.volumes or disk.marks)

    def load_marks(self) -> tuple[Mark, ...]:
        self._check_open()
        return tuple(mark for _, mark in sorted(self.disk.marks.items()))

    def mark_unconfirmed(self, marks: Sequence[Mark]) -> None:
        self._before_change()
        for mark in marks:
            self.disk.marks.setdefault(mark.volume_id, mark)

    def put_recovered(self, recovered: Recovered) -> None:
        self._before_change()
        line, volume_id = recovered.line, recovered.volume_id
        if line is not None:
            row, held = line_row(line), self.disk.lines.get(volume_id)
            if held is not None and not isinstance(read_line_row(held), Line):
                self.disk.damaged.append(held)
            elif held is not None:
                if not (_order(row) > _order(held) and _count(row) > _count(held)):
                    raise NotNewer("the stored line is not older than the one to be put")
                self.disk.previous[volume_id] = str(held.body)
            self.disk.lines[volume_id] = row
        if recovered.desired is not None:
            self.disk.volumes[volume_id] = volume_row(recovered.desired)
            self.disk.topology_version += 1
        self.disk.marks.pop(volume_id, None)
        self.disk.audit.append(recovered.audit)

    def begin_recovery(
        self, *, cluster_id: str, generation: int, awaited: Sequence[str], audit: AuditEntry
    ) -> None:
        self._before_change()
        if not self.empty:
            raise StoreUnusable("the store is not empty")
        self.disk.cluster_id, self.disk.generation = cluster_id, generation
        self.disk.epoch_floor = floor_of(generation)
        self.disk.awaited = tuple(awaited)
        self.disk.audit.append(audit)

    def awaited_nodes(self) -> tuple[str, ...]:
        self._check_open()
        return self.disk.awaited

    def set_awaited_nodes(self, awaited: Sequence[str], audit: AuditEntry | None = None) -> None:
        self._before_change()
        self.disk.awaited = tuple(awaited)
        if audit is not None:
            self.disk.audit.append(audit)

    def append_audit(self, entry: AuditEntry) -> None:
        self._before_change()
        self.disk.audit.append(entry)

    def audit(self, last: int) -> tuple[AuditEntry, ...]:
        self._check_open()
        return tuple(reversed(self.disk.audit))[:last]

    def recorded_epoch(self, volume_id: VolumeId) -> int:
        self._check_open()
        row = self.disk.lines.get(volume_id)
        return believable_epoch(None if row is None else row.epoch)

    @property
    def revision(self) -> int:
        self._check_open()
        return self._changes

    def backup_to(self, path: Path) -> None:
        self._check_open()
        path.write_text(repr(self.disk))

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.disk.locked = False

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosed("the store is closed")

    def _before_change(self) -> None:
        self._check_open()
        self._changes += 1
        cause = self.disk.faults.pop(0) if self.disk.faults else None
        if cause is not None:
            raise PutError(f"the store did not take the change: {cause}")
        if self._generation not in (None, self.disk.generation):
            raise taken_over(self.disk.generation, self._generation or 0)


def _damaged(row: Row) -> Row:
    assert isinstance(row.body, str), "written by us"
    return replace(row, body=row.body[:-2] + "?" + row.body[-1:])


def _order(row: LineRow) -> tuple[int, int]:
    assert isinstance(row.epoch, int)
    assert isinstance(row.endpoint_version, int)
    return (row.epoch, row.endpoint_version)


def _count(row: LineRow) -> int:
    assert isinstance(row.write_seq, int)
    return row.write_seq


def _check_policy(old: str, new: str) -> None:
    """What the database's triggers do. Raises: PolicyFixed."""
    try:
        before, after = json.loads(old), json.loads(new)
    except ValueError:
        return
    fixed = not before.get("retired")
    if fixed and any(before.get(one) != after.get(one) for one in ("ack", "min_in_sync")):
        raise PolicyFixed("the recorded volume has another policy or minimum")
