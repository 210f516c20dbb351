"""Volumes that cannot be: each gets a sentence that says what is wrong and a hint that says what to do."""

from __future__ import annotations

from typing import Any

import pytest

from sparrow.base.errors import InvalidArgument
from sparrow.lifecycle.spec import MIN_IN_SYNC_DEFAULT, VolumeSpec, check_spec

MIB = 1 << 20


def check(**changes: Any) -> VolumeSpec:
    given: dict[str, Any] = {
        "name": "demo",
        "size_bytes": 1 << 30,
        "replication_factor": 3,
        "known_nodes": 3,
    }
    return check_spec(**{**given, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ack": "most"}, "'most' is no policy"),
        ({"ack": "quorum", "replication_factor": 2}, "this volume has 2"),
        ({"ack": "quorum", "min_in_sync": 1}, "promises 2 copies"),
        ({"ack": "local", "replication_factor": 1}, "only where there is a second replica"),
    ],
)
def test_a_policy_that_cannot_be_kept_is_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as refused:
        check(**changes)
    assert refused.value.hint


@pytest.mark.parametrize("ack", ["sync", "quorum", "local"])
def test_a_policy_is_part_of_the_shape(ack: str) -> None:
    assert check(ack=ack).shape.ack == ack
    assert check().shape.ack == "sync"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "is empty"),
        ("a/b", "contains a slash"),
        ("/", "contains a slash"),
        ("..", "starts with '.'"),
        (".hidden", "starts with '.'"),
        ("-rf", "starts with '-'"),
        ("_x", "starts with '_'"),
        ("a b", "contains ' '"),
        ("a\n", r"contains '\n'"),
        ("größe", "contains 'ö'"),
        ("a\x00", r"contains '\x00'"),
        ("x" * 64, "64 bytes long"),
        ("ö" * 40, "80 bytes long"),
    ],
)
def test_a_bad_name_is_refused_for_what_is_bad_about_it(name: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(name=name)
    assert words in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["a", "0", "pvc-1f.2_x", "A" * 63])
def test_a_good_name_is_kept_as_it_is(name: str) -> None:
    assert check(name=name).volume_id == name


@pytest.mark.parametrize(
    ("size", "words", "hint"),
    [
        (0, "is 0; a volume needs room", "1 MiB or more"),
        (-5, "is -5", "1 MiB or more"),
        (1, "1 B is too small", "smallest is 1 MiB"),
        (MIB - 1, "too small", "smallest is 1 MiB"),
        (MIB + 1, "not a whole number of MiB", f"Use {2 * MIB} (2 MiB)"),
        (10**9, "not a whole number of MiB", "(954 MiB)"),
        ((64 << 40) + MIB, "too large", "largest is 64 TiB"),
    ],
)
def test_a_bad_size_is_refused_and_a_good_one_suggested(size: int, words: str, hint: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(size_bytes=size)
    assert words in str(caught.value)
    assert hint in caught.value.hint


@pytest.mark.parametrize("size", [MIB, 64 << 40])
def test_the_smallest_and_the_largest_size_pass(size: int) -> None:
    assert check(size_bytes=size).shape.size_bytes == size


@pytest.mark.parametrize("factor", [-1, 0, 4])
def test_a_replication_factor_outside_one_to_three_is_refused(factor: int) -> None:
    with pytest.raises(InvalidArgument, match=f"{factor} replicas are not possible"):
        check(replication_factor=factor, known_nodes=9)


@pytest.mark.parametrize(
    ("nodes", "words"), [(2, "has 2 nodes"), (1, "has 1 node."), (0, "has 0 nodes")]
)
def test_more_replicas_than_nodes_is_refused_naming_both_numbers(nodes: int, words: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(known_nodes=nodes)
    assert "3 replicas need 3 nodes" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize(("factor", "least"), sorted(MIN_IN_SYNC_DEFAULT.items()))
def test_the_minimum_in_sync_follows_the_replication_factor(factor: int, least: int) -> None:
    assert check(replication_factor=factor).shape.min_in_sync == least


@pytest.mark.parametrize("least", [-1, 4])
def test_a_minimum_in_sync_that_cannot_be_met_is_refused(least: int) -> None:
    with pytest.raises(InvalidArgument, match=f"minimum of {least}"):
        check(min_in_sync=least)


@pytest.mark.parametrize("block_size", [1, 520, 1024, 8192])
def test_a_block_size_the_core_does_not_serve_is_refused_naming_the_choices(
    block_size: int,
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        check(block_size=block_size)
    assert "4096" in caught.value.hint


def test_the_block_size_is_that_of_a_page_unless_asked_otherwise() -> None:
    assert check().shape.block_size == 4096
    assert check(block_size=512).shape.block_size == 512
