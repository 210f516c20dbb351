"""Numbers of paths: what clients keep of one must not change under them."""

from __future__ import annotations

from sparrow.base.ids import ReplicaId
from sparrow.frontends.paths import PATHS_MAX, path_number


def ids(*names: str) -> list[ReplicaId]:
    return [ReplicaId(name) for name in names]


def test_a_replica_keeps_its_number_whoever_comes_and_goes() -> None:
    (r3,) = ids("r3")
    for members in (ids("r1", "r2", "r3"), ids("r2", "r3", "r4"), ids("r3", "r10"), []):
        assert path_number(r3, members) == 3


def test_replicas_beside_each_other_have_different_numbers() -> None:
    members = ids(*(f"r{number}" for number in range(1, PATHS_MAX + 1)))
    assert {path_number(one, members) for one in members} == set(range(1, PATHS_MAX + 1))


def test_any_name_has_a_number_in_range() -> None:
    for name in ("r0", "r01", "r", "x", "", "r15", "r999999999", "r1234567890", "R2"):
        assert 1 <= path_number(ReplicaId(name), ids(name, "r1")) <= PATHS_MAX


def test_names_without_a_number_have_their_place() -> None:
    members = ids("c", "a", "b")
    assert [path_number(one, members) for one in ids("a", "b", "c", "d")] == [1, 2, 3, 1]
