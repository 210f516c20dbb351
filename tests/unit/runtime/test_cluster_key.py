"""The file with the cluster key: who may read it, what it may hold, how it is changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from sparrow.base.errors import AlreadyExists, ConfigError
from sparrow.formats.hello import ClusterKey
from sparrow.runtime.cluster_key import ClusterKeys, create_key_file, read_key_file

ONE, TWO, THREE = "1" * 64, "2" * 64, "3" * 64


def write(path: Path, *keys: str, mode: int = 0o600) -> None:
    """As an operator's editor does: another file in its place."""
    new = path.with_suffix(".new")
    new.write_text("# a comment\n\n" + "".join(f"{key}\n" for key in keys))
    new.chmod(mode)
    new.rename(path)


def secret(text: str) -> ClusterKey:
    return ClusterKey(secret=bytes.fromhex(text))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cluster.key"


def test_a_new_file_has_one_new_key_and_is_nobody_elses(path: Path) -> None:
    before = os.umask(0)
    try:
        create_key_file(path)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    (key,) = read_key_file(path)
    assert len(key.secret) == 32
    other = path.with_name("other")
    create_key_file(other)
    assert read_key_file(other) != (key,)
    with pytest.raises(AlreadyExists):
        create_key_file(path)
    assert read_key_file(path) == (key,)


def test_the_first_key_is_the_one_to_prove_with(path: Path) -> None:
    write(path, TWO, ONE)
    keys = ClusterKeys(path, structlog.get_logger())
    assert keys.own() == secret(TWO)
    assert keys.find(secret(ONE).key_id) == secret(ONE)
    assert keys.find(secret(THREE).key_id) is None


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_open_to_others_is_refused_with_the_way_out(path: Path, mode: int) -> None:
    write(path, ONE, mode=mode)
    with pytest.raises(ConfigError, match="open to others") as caught:
        read_key_file(path)
    assert caught.value.hint == f"chmod 600 {path}"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ((), "holds 0 keys"),
        ((ONE, TWO, THREE), "holds 3 keys"),
        ((ONE[:-1],), "Key 1 in .* is not 64"),
        ((ONE, "g" * 64), "Key 2 in .* is not 64"),
    ],
)
def test_what_is_no_key_file_is_refused(path: Path, keys: tuple[str, ...], words: str) -> None:
    write(path, *keys)
    with pytest.raises(ConfigError, match=words):
        read_key_file(path)


def test_a_missing_file_says_where_it_comes_from(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read") as caught:
        read_key_file(path)
    assert "sparrow node key" in caught.value.hint


def test_a_changed_file_is_in_force_at_once(path: Path) -> None:
    write(path, ONE)
    keys = ClusterKeys(path, structlog.get_logger())
    write(path, ONE, TWO)
    with capture_logs() as logs:
        assert keys.find(secret(TWO).key_id) == secret(TWO)
    assert logs[0]["event"] == "key.read"
    assert ONE not in str(logs)
    write(path, TWO, ONE)
    assert keys.own() == secret(TWO)
    write(path, TWO)
    assert keys.find(secret(ONE).key_id) is None


def test_a_file_that_became_unusable_changes_nothing_and_is_told_once(path: Path) -> None:
    write(path, ONE)
    keys = ClusterKeys(path, structlog.get_logger())
    with capture_logs() as logs:
        write(path, "rubbish")
        assert keys.own() == secret(ONE)
        assert keys.own() == secret(ONE)
        path.unlink()
        assert keys.own() == secret(ONE)
    assert [entry["event"] for entry in logs] == ["key.unusable", "key.unusable"]
