"""Bad input through the real command line: a sentence, a hint, an exit status, and nothing half-created."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.needs import needs_io_uring
from tests.support.places import disk_directory

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with disk_directory("cli") as place, Cluster(place, nodes=2) as made:
        made.create_volume("taken", size=16 << 20, replicas=2)
        made.wait_healthy("taken")
        yield made


def sparrow(cluster: Cluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sparrow", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tempfile.gettempdir(),
        env={**os.environ, "SPARROW_MASTER": cluster.master_addr},
    )


def snapshot(cluster: Cluster) -> tuple[object, ...]:
    """Everything a half-made volume could leave: in the API, in the authority, in the pools."""
    volumes = cluster.api(lambda api: api.list_volumes())
    status = cluster.api(lambda api: api.authority_status())
    files = [
        sorted(str(path.relative_to(node.pool)) for path in (node.pool / "volumes").rglob("*"))
        for node in cluster.nodes.values()
    ]
    return [volume.name for volume in volumes], status.lines, files


CREATE = ("volume", "create")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((*CREATE, "a", "--size", "0"), "size is 0"),
        ((*CREATE, "a", "--size", "0MiB"), "size is 0"),
        ((*CREATE, "a", "--size", "-1GiB"), "size"),
        ((*CREATE, "a", "--size", "lots"), "lots"),
        ((*CREATE, "a", "--size", "1000000000000TiB"), "too large"),
        ((*CREATE, "a", "--size", "100KiB"), "too small"),
        ((*CREATE, "a", "--size", "1500KiB"), "not a whole number of MiB"),
        ((*CREATE, "a", "--size", "16MiB"), "3 replicas need 3 nodes"),
        ((*CREATE, "a", "--size", "16MiB", "--replicas", "0"), "0 replicas"),
        ((*CREATE, "a", "--size", "16MiB", "--replicas", "7"), "7 replicas"),
        ((*CREATE, "a", "--size", "16MiB", "--replicas", "-1"), "--replicas -1"),
        ((*CREATE, "a/b", "--size", "16MiB", "--replicas", "2"), "contains a slash"),
        ((*CREATE, "../a", "--size", "16MiB", "--replicas", "2"), "contains a slash"),
        ((*CREATE, "", "--size", "16MiB", "--replicas", "2"), "name is empty"),
        ((*CREATE, ".a", "--size", "16MiB", "--replicas", "2"), "starts with '.'"),
        ((*CREATE, "a b", "--size", "16MiB", "--replicas", "2"), "contains ' '"),
        ((*CREATE, "a" * 64, "--size", "16MiB", "--replicas", "2"), "64 bytes long"),
        ((*CREATE, "taken", "--size", "16MiB", "--replicas", "2"), "exists already"),
        ((*CREATE, "taken", "--size", "32MiB", "--replicas", "1"), "exists already"),
        (
            (*CREATE, "a", "--size", "16MiB", "--replicas", "2", "--min-in-sync", "3"),
            "minimum of 3",
        ),
        (
            (*CREATE, "a", "--size", "16MiB", "--replicas", "2", "--block-size", "777"),
            "Block size 777",
        ),
        (("volume", "show", "nobody"), "There is no volume 'nobody'"),
        (("volume", "verify", "nobody"), "There is no volume 'nobody'"),
        (("volume", "delete", "nobody", "--yes"), "There is no volume 'nobody'"),
        (("volume", "delete", "taken"), "nobody is there to confirm"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)
def test_bad_input_ends_in_a_sentence_and_changes_nothing(
    cluster: Cluster, arguments: tuple[str, ...], sentence: str
) -> None:
    before = snapshot(cluster)
    done = sparrow(cluster, *arguments)
    assert done.returncode not in (0, 1), "refused, and not by a bug"
    assert done.stdout == ""
    first, *rest = done.stderr.strip().splitlines()
    assert sentence in first
    assert first.startswith("Error: ")
    assert first.endswith(".")
    assert len(rest) <= 1, "a sentence and perhaps a hint"
    assert "Traceback" not in done.stderr
    assert snapshot(cluster) == before


@pytest.mark.parametrize(
    "arguments",
    [(), ("volume",), ("volume", "create"), ("volume", "create", "a"), ("volume", "frobnicate")],
    ids=lambda value: " ".join(value) or "nothing",
)
def test_incomplete_commands_tell_the_usage(cluster: Cluster, arguments: tuple[str, ...]) -> None:
    done = sparrow(cluster, *arguments)
    assert done.returncode == 2
    assert "Usage: " in done.stdout + done.stderr


def test_without_a_master_the_address_is_named(cluster: Cluster) -> None:
    done = sparrow(cluster, "volume", "list", "--master", "127.0.0.1:1")
    assert done.returncode == 6
    assert done.stderr.startswith("Error: No master answers at 127.0.0.1:1.")


def test_a_name_is_free_again_after_a_delete(place: Path) -> None:
    """Nothing of the old volume shines through: another identity, and zeros."""
    with Cluster(place, nodes=1) as cluster:
        made = sparrow(cluster, "volume", "create", "a", "--size", "16MiB", "--replicas", "1")
        assert made.returncode == 0, made.stderr
        first = cluster.volume("a").line
        assert sparrow(cluster, "volume", "delete", "a", "--yes").returncode == 0
        left = [path for path in (cluster.path / "n1").rglob("*") if path.name == "extents"]
        assert left == []
        again = sparrow(cluster, "volume", "create", "a", "--size", "32MiB", "--replicas", "1")
        assert again.returncode == 0, again.stderr
        second = cluster.volume("a").line
        assert first is not None
        assert second is not None
        assert second.lineage > first.lineage, "no epoch is used twice"
        assert second.members[0].uuid != first.members[0].uuid
