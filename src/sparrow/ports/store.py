"""The master's durable state: authority lines, desired volumes, the master generation.

Every call that changes something returns after the change is durable, or raises and has changed nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sparrow.authority.publisher import LineStore
from sparrow.authority.recovery import AuditEntry, Mark
from sparrow.authority.types import DesiredVolume, SkippedRecord
from sparrow.base.access import Secret
from sparrow.base.ids import NodeId, VolumeId
from sparrow.lifecycle.nodes import NodeRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedVolumes:
    """The desired volumes a store believes, and the rows it does not."""

    volumes: tuple[DesiredVolume, ...] = ()
    skips: tuple[SkippedRecord, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedNodes:
    """The wanted states of nodes a store believes, and the nodes whose rows it does not."""

    nodes: tuple[NodeRecord, ...] = ()
    #: By the row's key, with the cause.
    damaged: tuple[tuple[NodeId, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSecrets:
    """The secrets a store believes, by name, and the names of rows it does not."""

    secrets: tuple[Secret, ...] = ()
    damaged: tuple[str, ...] = ()


class AuthorityStore(LineStore, Protocol):
    """What ``LineStore`` has is for the publisher alone, the rest for the master."""

    @property
    def cluster_id(self) -> str:
        """32 hex digits, made when the store was."""
        ...

    def raise_generation(self) -> int:
        """Increment the durable master generation and return it; once per boot, before anything is minted."""
        ...

    @property
    def topology_version(self) -> int:
        """Counts every change of desired volumes and of wanted node states, 0 in a new store; never goes back."""
        ...

    def load_nodes(self) -> LoadedNodes: ...

    def put_node(self, record: NodeRecord) -> None:
        """Record what is wanted of a node, whatever was recorded before."""
        ...

    def load_secrets(self) -> LoadedSecrets: ...

    def put_secret(self, secret: Secret) -> None:
        """Record a secret, whatever value it had before."""
        ...

    def delete_secret(self, name: str) -> None:
        """Forget a secret; one that is not there is success."""
        ...

    def load_volumes(self) -> LoadedVolumes: ...

    def create_volume(self, volume: DesiredVolume) -> None:
        """Record a new volume; ``AlreadyExists`` if the id is taken, also by a row that cannot be read."""
        ...

    def update_volume(self, volume: DesiredVolume) -> None:
        """Replace a recorded volume; ``NotFound`` if it is not there."""
        ...

    def delete_volume(self, volume_id: VolumeId) -> None:
        """Forget a volume; one that is not there is success."""
        ...

    @property
    def empty(self) -> bool:
        """Whether no master ever began to work on it: generation 0, no line, no volume, no mark."""
        ...

    def mark_unconfirmed(self, marks: Sequence[Mark]) -> None:
        """Let nothing be minted for these volumes until they are recovered; a volume marked already keeps its mark."""
        ...

    def begin_recovery(
        self, *, cluster_id: str, generation: int, awaited: Sequence[str], audit: AuditEntry
    ) -> None:
        """Make an empty store the store of a cluster that lost its own; the next boot is above ``generation``.

        Raises: StoreUnusable: it is not empty.
        """
        ...

    def awaited_nodes(self) -> tuple[str, ...]:
        """Addresses of nodes the operator named at a recovery that have not answered yet."""
        ...

    def set_awaited_nodes(self, awaited: Sequence[str], audit: AuditEntry | None = None) -> None:
        """Replace that list, and record who made it shorter by hand."""
        ...

    def append_audit(self, entry: AuditEntry) -> None:
        """Record what is about to be done by hand."""
        ...

    def audit(self, last: int) -> tuple[AuditEntry, ...]:
        """The last entries, newest first. Entries are never changed or removed."""
        ...

    def recorded_epoch(self, volume_id: VolumeId) -> int:
        """The epoch column of a volume's row, damaged or not; 0 without a row, or when it says nothing sensible."""
        ...

    @property
    def revision(self) -> int:
        """Grows with every change that is durable, within one process's life; compared for being the same, or less."""
        ...

    def backup_to(self, path: Path) -> None:
        """Copy everything, as it is at one moment, to a new file that is durable when this returns.

        Thread: any; others go on meanwhile.

        Raises: StorageError: there is no copy, and no half of one.
        """
        ...

    def previous_records(self, volume_ids: Sequence[VolumeId]) -> dict[VolumeId, str]:
        """The record before the newest one, as text. For showing to a person only: never believed, never loaded."""
        ...

    def close(self) -> None:
        """Idempotent; every other call raises ``StoreClosed`` afterwards."""
        ...
