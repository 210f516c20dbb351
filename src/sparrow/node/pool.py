"""The directory of one node: locked by its process, with what must outlive the process besides replicas.

``.lock`` is held by flock and never removed. ``node.json`` holds the node's id, its cluster once known, and the
incarnation, a counter raised and made durable before the process does anything of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sparrow.base.errors import ConfigError, FailedPrecondition, StorageError
from sparrow.base.ids import NodeId

LOCK_FILE: Final = ".lock"
STATE_FILE: Final = "node.json"
STATE_VERSION: Final = 1
VOLUMES: Final = "volumes"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What ``node.json`` holds."""

    node_id: NodeId
    cluster_id: str
    incarnation: int


class Pool:
    """A locked pool. Make one with :meth:`open`."""

    def __init__(self, directory: Path, lock_fd: int, state: NodeState) -> None:
        self.directory = directory
        self.state = state
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, directory: Path, node_id: NodeId) -> Pool:
        """Lock the directory and raise the incarnation, durably.

        Raises:
            ConfigError: it cannot be made or used, or belongs to another node.
            FailedPrecondition: another process has it.
            StorageError: its state cannot be read or written.
        """
        try:
            directory.mkdir(parents=True, exist_ok=True)
            lock_fd = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"{directory} cannot be the pool: {error.strerror}.",
                hint="Choose another directory with --pool.",
            ) from None
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock_fd)
            raise FailedPrecondition(
                f"The pool {directory} is in use by another process.",
                hint="Stop that node, or give this one a pool of its own.",
            ) from None
        try:
            state = _read(directory)
            _check_owner(state, node_id, directory)
            fresh = NodeState(node_id=node_id, cluster_id="", incarnation=0)
            known = state or fresh
            pool = cls(directory, lock_fd, replace(known, incarnation=known.incarnation + 1))
            pool._write()
        except BaseException:
            os.close(lock_fd)
            raise
        return pool

    def learn_cluster(self, cluster_id: str) -> None:
        """Remember the cluster for ever. Raises: ConfigError: this pool belongs to another one."""
        if self.state.cluster_id == cluster_id:
            return
        if self.state.cluster_id or not cluster_id:
            raise ConfigError(
                f"The master is of cluster {cluster_id!r}, this pool of {self.state.cluster_id!r}.",
                hint="Point the node to its own master, or give it an empty pool.",
            )
        self.state = replace(self.state, cluster_id=cluster_id)
        self._write()

    def space(self) -> tuple[int, int]:
        """Bytes of the file system under the pool: in all, and free for us."""
        numbers = os.statvfs(self.directory)
        return numbers.f_blocks * numbers.f_frsize, numbers.f_bavail * numbers.f_frsize

    def used_by_replicas(self) -> int:
        """Bytes allocated to files of replicas."""
        total = 0
        for folder, _folders, files in os.walk(self.directory / VOLUMES):
            for name in files:
                try:
                    total += os.stat(Path(folder) / name).st_blocks * 512  # noqa: PTH116 - hot, many files
                except FileNotFoundError:
                    continue
        return total

    def close(self) -> None:
        """Let another process have it."""
        os.close(self._lock_fd)

    def _write(self) -> None:
        """Replace the state file: new content durable first, then its name."""
        path = self.directory / STATE_FILE
        draft = path.with_suffix(".tmp")
        content = {
            "version": STATE_VERSION,
            "node_id": self.state.node_id,
            "cluster_id": self.state.cluster_id,
            "incarnation": self.state.incarnation,
        }
        try:
            with draft.open("w") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
            folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}.") from None


def _check_owner(state: NodeState | None, node_id: NodeId, directory: Path) -> None:
    if state is not None and state.node_id != node_id:
        raise ConfigError(
            f"The pool {directory} belongs to node {state.node_id}, not to {node_id}.",
            hint="Start this node with its own pool, or with the id the pool was made for.",
        )


def _read(directory: Path) -> NodeState | None:
    path = directory / STATE_FILE
    try:
        content: Any = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(
            f"{path} cannot be read: {error}.",
            hint="Restore it, or remove it to have the node start as a new incarnation 1.",
        ) from None
    try:
        if content["version"] != STATE_VERSION:
            raise StorageError(
                f"{path} is of version {content['version']}, this is an older sparrow."
            )
        return NodeState(
            node_id=NodeId(str(content["node_id"])),
            cluster_id=str(content["cluster_id"]),
            incarnation=int(content["incarnation"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(f"{path} lacks or garbles {error}.") from None
