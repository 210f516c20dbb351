"""The pool of a node: one process, one node, one cluster, and an incarnation that only grows."""

from __future__ import annotations

import errno
import fcntl
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sparrow.base.constants import hold_off_s
from sparrow.base.errors import ConfigError, FailedPrecondition, StorageError
from sparrow.base.ids import NodeId
from sparrow.node import pool as pool_module
from sparrow.node.pool import FIRST_SECOND, STATE_BYTES, STATE_FILE, Pool
from tests.support.descriptors import no_open_file_left
from tests.support.locks import waits_for_a_lock

N1 = NodeId("n1")


def test_every_start_is_a_higher_incarnation(tmp_path: Path) -> None:
    seen = []
    for _ in range(3):
        pool = Pool.open(tmp_path / "p", N1)
        seen.append(pool.state.incarnation)
        pool.close()
    assert seen == [seen[0], seen[0] + 1, seen[0] + 2]


def test_a_replaced_pool_of_a_node_is_no_older_incarnation(tmp_path: Path) -> None:
    """Else the master would ignore the node until its own next start."""
    old = [_incarnation(tmp_path / "old", second) for second in (50, 90, 91)]
    new = _incarnation(tmp_path / "new", 92)
    assert old == [51, 52, 53]
    assert new == 93


def _incarnation(directory: Path, seconds: int) -> int:
    pool = Pool.open(directory, N1, clock=lambda: FIRST_SECOND + seconds + 0.5)
    pool.close()
    return pool.state.incarnation


def test_two_processes_cannot_have_one_pool(tmp_path: Path) -> None:
    pool = Pool.open(tmp_path, N1)
    with pytest.raises(FailedPrecondition, match="in use"):
        Pool.open(tmp_path, N1)
    pool.close()
    Pool.open(tmp_path, N1).close()


def test_a_pool_of_another_node_is_refused(tmp_path: Path) -> None:
    Pool.open(tmp_path, N1).close()
    with pytest.raises(ConfigError, match="belongs to node n1"):
        Pool.open(tmp_path, NodeId("n2"))
    Pool.open(tmp_path, N1).close()


def test_the_cluster_is_learned_once_and_for_ever(tmp_path: Path) -> None:
    pool = Pool.open(tmp_path, N1)
    pool.learn_cluster("c1")
    pool.learn_cluster("c1")
    with pytest.raises(ConfigError):
        pool.learn_cluster("c2")
    pool.close()
    again = Pool.open(tmp_path, N1)
    assert again.state.cluster_id == "c1"
    with pytest.raises(ConfigError):
        again.learn_cluster("c2")
    with pytest.raises(ConfigError):
        again.learn_cluster("")
    again.close()


def test_s18_the_highest_master_generation_outlives_the_process(tmp_path: Path) -> None:
    """S18(e): a zombie master must be refused by a node that was restarted since its successor spoke, too."""
    pool = Pool.open(tmp_path, N1)
    assert pool.state.master_generation == 0
    pool.learn_generation(7)
    pool.learn_generation(3)
    pool.close()
    again = Pool.open(tmp_path, N1)
    assert again.state.master_generation == 7
    again.learn_cluster("c1")
    again.close()
    assert Pool.open(tmp_path, N1).state.master_generation == 7


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"version": 9, "node_id": "n1"}', '{"version": 1}']
)
def test_a_damaged_state_file_is_never_guessed_at(tmp_path: Path, content: str) -> None:
    Pool.open(tmp_path, N1).close()
    (tmp_path / STATE_FILE).write_text(content)
    with pytest.raises(StorageError):
        Pool.open(tmp_path, N1)
    assert (tmp_path / STATE_FILE).read_text() == content


@pytest.mark.parametrize("offset", [0, STATE_BYTES])
@pytest.mark.parametrize("damage", [b"", b"\0", b"x", b'{"version": 2}'])
def test_one_whole_copy_of_the_state_is_enough(tmp_path: Path, offset: int, damage: bytes) -> None:
    pool = Pool.open(tmp_path, N1)
    first = pool.state.incarnation
    pool.learn_cluster("c1")
    pool.close()
    path = tmp_path / STATE_FILE
    content = bytearray(path.read_bytes())
    content[offset : offset + STATE_BYTES] = damage.ljust(STATE_BYTES, b"?")
    path.write_bytes(content)
    again = Pool.open(tmp_path, N1)
    assert (again.state.cluster_id, again.state.incarnation) == ("c1", first + 1)
    again.close()
    assert path.read_bytes()[:STATE_BYTES] == path.read_bytes()[STATE_BYTES:], "whole again"


def test_of_two_whole_copies_the_newer_counts(tmp_path: Path) -> None:
    """A crash between the two writes of one update."""
    begun = Pool.open(tmp_path, N1)
    begun.close()
    path = tmp_path / STATE_FILE
    first = path.read_bytes()[:STATE_BYTES]
    Pool.open(tmp_path, N1).close()
    path.write_bytes(first + path.read_bytes()[STATE_BYTES:])
    pool = Pool.open(tmp_path, N1)
    assert pool.state.incarnation == begun.state.incarnation + 2
    pool.close()


def test_a_start_writes_in_place(tmp_path: Path) -> None:
    """Nothing new is allocated, so a full pool does not keep its node from starting."""
    Pool.open(tmp_path, N1).close()
    before = (tmp_path / STATE_FILE).stat()
    Pool.open(tmp_path, N1).close()
    after = (tmp_path / STATE_FILE).stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", STATE_FILE]


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError):
        Pool.open(tmp_path / "file" / "pool", N1)


def test_room_and_use_are_told_in_bytes(tmp_path: Path) -> None:
    pool = Pool.open(tmp_path, N1)
    total, free = pool.space()
    assert total >= free > 0
    assert pool.used_by_replicas() == 0
    folder = tmp_path / "volumes" / "v" / "r1"
    folder.mkdir(parents=True)
    (folder / "extents").write_bytes(bytes(65536))
    assert pool.used_by_replicas() >= 65536
    pool.close()


def test_s6_a_shorter_grant_counts_only_when_every_longer_one_has_been_outlived(
    tmp_path: Path,
) -> None:
    """What a process before granted may still run: nothing opens here until the longest of it is over."""
    Pool.open(tmp_path, N1, grant_s=3.0).close()
    for _ in range(2):
        pool = Pool.open(tmp_path, N1, grant_s=1.0)
        assert pool.hold_off_s == hold_off_s(3.0) > 3.0
        pool.close()
    pool = Pool.open(tmp_path, N1, grant_s=1.0)
    pool.outlived(1.0)
    pool.close()
    pool = Pool.open(tmp_path, N1, grant_s=1.0)
    assert pool.hold_off_s == hold_off_s(1.0)
    pool.close()
    pool = Pool.open(tmp_path, N1, grant_s=2.0)
    assert pool.hold_off_s == hold_off_s(2.0), "a longer one counts from the start"
    pool.close()


def test_a_file_system_that_locks_nothing_is_said_to_be_no_place_for_a_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unlockable(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pool_module.fcntl, "flock", unlockable)
    with (
        no_open_file_left(),
        pytest.raises(ConfigError, match="cannot be the pool: No locks available"),
    ):
        Pool.open(tmp_path, N1)


def test_a_pool_is_waited_for_until_the_writes_of_a_dead_process_have_ended(tmp_path: Path) -> None:
    """Its own lock went with the process, the one on the directory goes with its writes."""
    Pool.open(tmp_path, N1).close()
    before = (tmp_path / STATE_FILE).read_bytes()
    under_way = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(under_way, fcntl.LOCK_EX)
    with ThreadPoolExecutor(1) as thread:
        opening = thread.submit(Pool.open, tmp_path, N1)
        try:
            deadline = time.monotonic() + 30.0
            while not waits_for_a_lock(os.getpid()):
                assert not opening.done(), "it did not wait"
                assert time.monotonic() < deadline, "it does something else"
                time.sleep(0.01)
            assert (tmp_path / STATE_FILE).read_bytes() == before
        finally:
            os.close(under_way)
        opening.result(30.0).close()
    assert (tmp_path / STATE_FILE).read_bytes() != before
