"""The directory of one node: locked by its process, with what must outlive the process besides replicas.

``.lock`` is held by flock and never removed; the directory itself is held so too, for longer. ``node.json`` holds the
node's id, its cluster once known, the newest master generation heard, the length of the grants it gave, and the
incarnation, a counter raised and made durable before the process does anything of its own.

``node.json`` is two blocks of one JSON line each, written in place one after the other: a node must be able to start
when its pool has no room left, and at any moment at least one block is whole. The whole one with the higher
incarnation counts.

The lock on the directory is waited for until every write that a killed process left to the disk has ended
(``dataplane.at_rest``). Who holds ``.lock`` waits for it: its predecessor has ended, so only the disk is waited for.

Two locks, because a pool in use is refused at once; no second file, because a full pool may have no room for one.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sparrow.base.constants import GRANT_S, hold_off_s
from sparrow.base.errors import ConfigError, FailedPrecondition, StorageError
from sparrow.base.ids import NodeId
from sparrow.dataplane.at_rest import lock_at_rest, tell_nobody

LOCK_FILE: Final = ".lock"
STATE_FILE: Final = "node.json"
STATE_VERSION: Final = 2
#: One copy of the state: what a disk writes as a whole, and room to spare.
STATE_BYTES: Final = 4096
VOLUMES: Final = "volumes"
#: 2024-01-01 in Unix time, seconds: a new pool's incarnations begin above any of an older pool of the same node.
FIRST_SECOND: Final = 1_704_067_200


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeState:
    """What ``node.json`` holds."""

    node_id: NodeId
    cluster_id: str
    incarnation: int
    #: The highest of any master this node listened to; masters below it were replaced. 0 before the first.
    master_generation: int = 0
    #: The longest grant that a process of this node gave and that may still run, milliseconds.
    grant_ms: int = 0


class Pool:
    """A locked pool. Make one with :meth:`open`.

    Attributes:
        writes_fd: the locked directory; what writes keeps it open until it has written.
    """

    def __init__(self, directory: Path, lock_fd: int, writes_fd: int, state: NodeState) -> None:
        self.directory = directory
        self.state = state
        self.writes_fd = writes_fd
        self._lock_fd = lock_fd

    @classmethod
    def open(
        cls,
        directory: Path,
        node_id: NodeId,
        *,
        clock: Callable[[], float] = time.time,
        grant_s: float = GRANT_S,
        tell: Callable[[Path], None] = tell_nobody,
    ) -> Pool:
        """Lock the directory and raise the incarnation, durably. ``tell``: as ``lock_at_rest`` has it.

        A pool that is empty begins at the seconds since 2024 rather than at 0: when the pool of a node was replaced,
        the master must not take the new process for one older than that of the lost pool.

        Raises:
            ConfigError: it cannot be made or used, or belongs to another node.
            FailedPrecondition: another process has it.
            StorageError: its state cannot be read or written.
        """
        with ExitStack() as undo:
            try:
                directory.mkdir(parents=True, exist_ok=True)
                lock_fd = os.open(
                    directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
                )
                undo.callback(os.close, lock_fd)
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                writes_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                undo.callback(os.close, writes_fd)
                lock_at_rest(writes_fd, directory, tell)
            except BlockingIOError:
                raise FailedPrecondition(
                    f"The pool {directory} is in use by another process.",
                    hint="Stop that node, or give this one a pool of its own.",
                ) from None
            except OSError as error:
                raise ConfigError(
                    f"{directory} cannot be the pool: {error.strerror}.",
                    hint="Choose another directory with --pool.",
                ) from None
            state = _read(directory)
            _check_owner(state, node_id, directory)
            seconds = max(0, int(clock()) - FIRST_SECOND)
            fresh = NodeState(node_id=node_id, cluster_id="", incarnation=seconds)
            known = state or fresh
            begun = replace(
                known,
                incarnation=known.incarnation + 1,
                # Durable before any is given, so the next process knows what it may have to wait for.
                grant_ms=max(known.grant_ms, round(grant_s * 1000)),
            )
            pool = cls(directory, lock_fd, writes_fd, begun)
            pool._write(pool.state)
            undo.pop_all()
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
        learnt = replace(self.state, cluster_id=cluster_id)
        self._write(learnt)
        self.state = learnt

    def learn_generation(self, generation: int) -> None:
        """Remember a master's generation for ever; a lower one than known changes nothing. Raises: StorageError."""
        if generation > self.state.master_generation:
            learnt = replace(self.state, master_generation=generation)
            self._write(learnt)
            self.state = learnt

    @property
    def flush_file(self) -> Path:
        """A file on the file system of the replicas that nobody writes: flushed, it has nothing of its own to write.

        Whoever flushes it opens it anew: the lock goes with the open file that has it.
        """
        return self.directory / LOCK_FILE

    @property
    def hold_off_s(self) -> float:
        """How long nothing may open after this start: as long as the longest grant of the processes before (S6)."""
        return hold_off_s(self.state.grant_ms / 1000)

    def outlived(self, grant_s: float = GRANT_S) -> None:
        """The hold-off is over: only grants of this process can run. Raises: StorageError."""
        if self.state.grant_ms != round(grant_s * 1000):
            learnt = replace(self.state, grant_ms=round(grant_s * 1000))
            self._write(learnt)
            self.state = learnt

    def scrub_file(self, name: str) -> Path:
        """Where the cursor of a replica's scrub is kept; of no worth to anything else."""
        return self.directory / "scrubs" / f"{name}.json"

    def space(self) -> tuple[int, int]:
        """Bytes of the file system under the pool: in all, and free for us."""
        numbers = os.statvfs(self.directory)
        return numbers.f_blocks * numbers.f_frsize, numbers.f_bavail * numbers.f_frsize

    def used_by_replicas(self) -> int:
        """Bytes allocated to files of replicas."""
        return _allocated(str(self.directory / VOLUMES))

    def close(self) -> None:
        """Let another process have it, when what was written has ended."""
        os.close(self.writes_fd)
        os.close(self._lock_fd)

    def _write(self, state: NodeState) -> None:
        """Put the state into both copies, the second first, each durable before the other is touched."""
        path = self.directory / STATE_FILE
        block = _encode(state)
        try:
            if not path.exists():
                self._create(path, block)
                return
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                for offset in (STATE_BYTES, 0):
                    os.pwrite(file, block, offset)
                    os.fsync(file)
            finally:
                os.close(file)
        except OSError as error:
            raise StorageError(f"{path} cannot be written: {error.strerror}.") from None

    def _create(self, path: Path, block: bytes) -> None:
        """Content durable first, then its name."""
        draft = path.with_suffix(".tmp")
        with draft.open("wb") as file:
            file.write(block * 2)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        folder = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _allocated(folder: str) -> int:
    """Bytes of all files below a folder; what vanishes meanwhile counts nothing. Many files: no ``Path``."""
    total = 0
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    total += _allocated(entry.path)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
    except FileNotFoundError:
        pass
    return total


def _check_owner(state: NodeState | None, node_id: NodeId, directory: Path) -> None:
    if state is not None and state.node_id != node_id:
        raise ConfigError(
            f"The pool {directory} belongs to node {state.node_id}, not to {node_id}.",
            hint="Start this node with its own pool, or with the id the pool was made for.",
        )


def _encode(state: NodeState) -> bytes:
    """One copy: a line of JSON with its own check, padded to a whole block."""
    content = {
        "version": STATE_VERSION,
        "node_id": state.node_id,
        "cluster_id": state.cluster_id,
        "incarnation": state.incarnation,
        "master_generation": state.master_generation,
        "grant_ms": state.grant_ms,
    }
    line = json.dumps(content | {"check": _check_of(content)})
    block = line.encode().ljust(STATE_BYTES - 1) + b"\n"
    assert len(block) == STATE_BYTES, "names are bounded"
    return block


def _check_of(content: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def _read(directory: Path) -> NodeState | None:
    """The newest whole copy; None when there never was one. Raises: StorageError: none is whole."""
    path = directory / STATE_FILE
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}.") from None
    found: list[NodeState] = []
    faults: list[str] = []
    for offset in (0, STATE_BYTES):
        try:
            found.append(_decode(content[offset : offset + STATE_BYTES]))
        except (KeyError, TypeError, ValueError) as error:
            faults.append(str(error))
    if not found:
        raise StorageError(
            f"{path} cannot be read: {'; '.join(faults)}.",
            hint="Restore it, or remove it to have the node start as a new incarnation 1.",
        )
    return max(
        found,
        key=lambda state: (state.incarnation, bool(state.cluster_id), state.master_generation),
    )


def _decode(block: bytes) -> NodeState:
    """Raises: KeyError, TypeError, ValueError: it is not whole, or of another version."""
    content: Any = json.loads(block)
    if content["version"] != STATE_VERSION:
        raise ValueError(f"it is of version {content['version']}, not {STATE_VERSION}")
    if content.pop("check") != _check_of(content):
        raise ValueError("its check is wrong")
    return NodeState(
        node_id=NodeId(str(content["node_id"])),
        cluster_id=str(content["cluster_id"]),
        incarnation=int(content["incarnation"]),
        # Absent in files written before generations were kept.
        master_generation=int(content.get("master_generation", 0)),
        grant_ms=int(content.get("grant_ms", 0)),
    )
