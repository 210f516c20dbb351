"""`sparrow up` as its user meets it: start, look, lose a process, stop, start again."""

from __future__ import annotations

import asyncio
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from sparrow.runtime.embedded import read_cluster_file
from tests.support.needs import needs_io_uring
from tests.support.ports import free_base
from tests.support.waiting import until

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

WAIT_S = 60.0


class Up:
    """One `sparrow up --json` and the events it printed."""

    def __init__(self, data: Path, *arguments: str, base_port: int) -> None:
        command = [sys.executable, "-m", "sparrow", "up", "--data", str(data), "--json"]
        self.data = data
        self.process = subprocess.Popen(
            [*command, "--base-port", str(base_port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "SPARROW_PARENT_PID": str(os.getpid())},
        )
        self.events: list[dict[str, Any]] = []
        self._queue: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next event of which something holds."""
        while (event := self._queue.get(timeout=WAIT_S)) is not None:
            self.events.append(event)
            if holds(event):
                return event
        raise AssertionError(f"ended before: {self.events}\n{self._errors()}")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(WAIT_S)

    def pids(self) -> dict[str, int]:
        """Process id of each child, by its name."""
        content = read_cluster_file(self.data)
        assert content is not None
        pids = {node["node_id"]: int(node["pid"]) for node in content["nodes"]}
        return {"master": int(content["master"]["pid"]), **pids}

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._queue.put(json.loads(line))
        self._queue.put(None)

    def _errors(self) -> str:
        assert self.process.stderr is not None
        return self.process.stderr.read()


def is_event(event_name: str, **facts: object) -> Callable[[dict[str, Any]], bool]:
    def holds(event: dict[str, Any]) -> bool:
        same = all(event.get(key) == value for key, value in facts.items())
        return event["event"] == event_name and same

    return holds


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def ended(pid: int) -> bool:
    """Gone, or waiting for a parent that asks how it ended."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return status.rpartition(")")[2].split()[0] in "ZX"


def cli(master: str, *arguments: str) -> Any:
    shown = subprocess.run(
        [sys.executable, "-m", "sparrow", *arguments, "--master", master, "--output", "json"],
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_S,
    )
    return json.loads(shown.stdout)


#: From the master's to the last one of the third node.
PORTS = 35


@pytest.fixture
def base_port() -> int:
    return free_base(PORTS)


def test_a_first_start_serves_demo_and_a_second_finds_it_again(
    tmp_path: Path, base_port: int
) -> None:
    with Up(tmp_path, base_port=base_port) as up:
        ready = up.until(is_event("ready"))
        (demo,) = ready["volumes"]
        assert (demo["name"], demo["size_bytes"], demo["replication_factor"]) == (
            "demo",
            1 << 30,
            3,
        )
        assert demo["frontends"]
        first = cli(ready["master"], "volume", "show", "demo")
        pids = up.pids()
        assert up.stop(signal.SIGINT) == 0
        assert all(gone(pid) for pid in pids.values())
        assert up.pids() == {"master": 0, "n1": 0, "n2": 0, "n3": 0}

    with Up(tmp_path, base_port=base_port) as up:
        ready = up.until(is_event("ready"))
        assert ready["volumes"][0]["frontends"], "shown only when there is something to attach"
        up.until(lambda e: e["event"] == "status" and e["volumes"] == {"demo": "healthy"})
        again = cli(ready["master"], "volume", "show", "demo")
        uuids = [[member["uuid"] for member in v["line"]["members"]] for v in (first, again)]
        assert uuids[0] == uuids[1], "the same files, not new ones"
        assert up.stop() == 0


def test_a_child_that_dies_is_reported_and_comes_back(tmp_path: Path, base_port: int) -> None:
    with Up(tmp_path, "--no-demo", base_port=base_port) as up:
        up.until(is_event("ready", volumes=[]))
        killed = up.pids()["n2"]
        os.kill(killed, signal.SIGKILL)
        report = up.until(is_event("child", name="n2", state="restarting"))
        assert report["ended"] == "signal SIGKILL"
        back = up.until(is_event("child", name="n2", state="ready"))
        assert back["pid"] not in (0, killed)
        assert up.pids()["n2"] == back["pid"]
        assert up.stop() == 0


def test_children_do_not_outlive_a_killed_parent(tmp_path: Path, base_port: int) -> None:
    with Up(tmp_path, "--no-demo", "--nodes", "1", base_port=base_port) as up:
        up.until(is_event("ready"))
        pids = up.pids()
        up.process.kill()
        up.process.wait(WAIT_S)
    # They are told by the kernel, and end when they are next on a processor. A second start needs their ports and the
    # store's lock.
    asyncio.run(until(lambda: all(ended(pid) for pid in pids.values())))
    with Up(tmp_path, "--no-demo", "--nodes", "1", base_port=base_port) as up:
        up.until(is_event("ready"))
        assert not set(pids.values()) & set(up.pids().values())
        assert up.stop() == 0


def test_a_directory_in_use_is_refused_in_one_sentence(tmp_path: Path, base_port: int) -> None:
    with Up(tmp_path, "--no-demo", "--nodes", "1", base_port=base_port) as up:
        up.until(is_event("ready"))
        command = [sys.executable, "-m", "sparrow", "up", "--data", str(tmp_path), "--nodes", "1"]
        second = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=WAIT_S
        )
        assert second.returncode == 5
        assert f"A cluster is running in {tmp_path} already." in second.stderr
        assert "Traceback" not in second.stderr
        assert up.stop() == 0
