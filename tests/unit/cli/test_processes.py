"""What the command line is before any verb: where the master is, settings, processes, help."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sparrow.cli.common import MASTER_DEFAULT, find_master
from sparrow.store.sqlite import SqliteStore
from tests.support.command_line import Run


def test_nobody_there_names_the_address_and_what_to_start(run: Run) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        ran = run("volume", "list", "--master", address)
    assert ran.status == 6
    assert ran.err.splitlines() == [
        f"Error: No master answers at {address}.",
        "Start a cluster with `sparrow up`, or name its master with --master HOST:PORT.",
    ]


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:99999"])
def test_an_address_that_is_none_is_a_usage_error(run: Run, address: str) -> None:
    ran = run("volume", "list", "--master", address)
    assert ran.status == 2
    assert "The master's address is off" in ran.err


def test_an_unknown_verb_is_a_usage_error(run: Run) -> None:
    assert run("volume", "explode").status == 2


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version").out.startswith("sparrow 0.")


def test_the_master_is_the_option_then_the_environment_then_the_cluster_here(
    tmp_path: Path,
) -> None:
    (tmp_path / "sparrow-data").mkdir()
    here = {"version": 1, "master": {"addr": "127.0.0.1:9000"}}
    assert find_master(None, environment={}, directory=tmp_path) == MASTER_DEFAULT
    (tmp_path / "sparrow-data" / "cluster.json").write_text(json.dumps(here))
    assert find_master(None, environment={}, directory=tmp_path) == "127.0.0.1:9000"
    named = {"SPARROW_MASTER": "m:1"}
    assert find_master(None, environment=named, directory=tmp_path) == "m:1"
    assert find_master("m:2", environment=named, directory=tmp_path) == "m:2"


def test_a_broken_cluster_file_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "sparrow-data").mkdir()
    (tmp_path / "sparrow-data" / "cluster.json").write_text("{")
    assert find_master(None, environment={}, directory=tmp_path) == MASTER_DEFAULT


def test_the_masters_settings_are_printed_with_their_sources(run: Run, tmp_path: Path) -> None:
    own = ("--data", str(tmp_path / "m"), "--cluster-key", str(tmp_path / "k"))
    ran = run("master", "run", *own, "--print-config")
    shown = json.loads(ran.out)
    assert shown["data"]["source"] == "flag"
    assert shown["listen"] == {
        "value": "127.0.0.1:7400",
        "source": "default",
        "meaning": shown["listen"]["meaning"],
    }
    assert not (tmp_path / "m").exists(), "only printed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "data is not set"),
        (("--data", "m"), "cluster_key is not set"),
        (
            ("--data", "m", "--cluster-key", "k", "--listen", "nowhere"),
            "listen: 'nowhere' is not host:port",
        ),
        (
            ("--data", "m", "--cluster-key", "k", "--log-level", "loud"),
            "log_level: 'loud' is no level",
        ),
        (("--data", "m", "--colour", "red"), "There is no flag --colour."),
    ],
)
def test_settings_of_the_master_that_are_off_are_named(
    run: Run, arguments: tuple[str, ...], words: str
) -> None:
    ran = run("master", "run", *arguments)
    assert ran.status == 2
    assert words in ran.err


def test_one_store_has_one_master(run: Run, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "m")
    own = ("--data", str(tmp_path / "m"), "--cluster-key", str(tmp_path / "k"))
    ran = run("master", "run", *own, "--listen", "127.0.0.1:0")
    store.close()
    assert ran.status == 5
    assert f"in use by process {os.getpid()}" in ran.err


@pytest.mark.parametrize(
    ("process", "entry", "needed"),
    [
        ("node", "process", ["--node-id", "n1", "--pool", "p", "--master", "127.0.0.1:7400"]),
        ("master", "app", ["--data", "m"]),
    ],
)
def test_a_process_starts_without_the_options_of_other_verbs(
    process: str, entry: str, needed: list[str], tmp_path: Path
) -> None:
    script = f"""
import gc, sys
from sparrow.cli.main import main
sys.argv = ["sparrow", "{process}", "run", "--print-config", "--cluster-key", "k", *{needed}]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
assert "sparrow.{process}.{entry}" in sys.modules
assert "sparrow.node.app" not in sys.modules, "loaded while replicas are opened, never before"
assert not {{"typer", "sparrow.cli.root"}} & set(sys.modules)
assert gc.isenabled()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cluster_key" in done.stdout


@pytest.mark.parametrize("process", ["node", "master"])
def test_help_on_a_process_tells_how_to_see_its_settings(run: Run, process: str) -> None:
    ran = run(process, "run", "--help")
    assert ran.status == 0
    assert "--print-config" in ran.out
