"""Lanes of CI: nothing that fails hides another or is lost in what is printed, and the last line counts."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tools.ci import PROCESSES, TREE, Lane, Run, Step, counted, lanes

ROOT = Path(__file__).resolve().parents[2]


def step(name: str, script: str) -> Step:
    return Step(name, ("sh", "-c", script))


def last_line(capfd: pytest.CaptureFixture[str]) -> str:
    return capfd.readouterr().out.rstrip().rpartition("\n")[2]


@pytest.mark.parametrize(
    ("status", "output", "expected"),
    [
        (0, "all is well\n", (1, 0)),
        (2, "make: *** [lint] Error 1\n", (0, 1)),
        (0, "=== 12 passed, 3 deselected in 1.23s ===\n", (12, 0)),
        (0, "...\n317 passed in 145.41s (0:02:25)\ntests: 317 reports: 0\n", (317, 0)),
        # All tests passed, and the verb failed for another reason: a report of a sanitizer.
        (1, "317 passed in 145.41s (0:02:25)\ntests: 317 reports: 2\n", (317, 1)),
        (1, "= 2 failed, 5 passed, 1 error, 1 xfailed, 1 warning in 700.00s (0:11:40) =\n", (6, 3)),
        (2, "=== 1 error in 0.12s ===\n", (0, 1)),
        (5, "=== no tests ran in 0.01s ===\n", (0, 1)),
        # A test that runs pytest shows its output; the last summary is that of the run itself.
        (1, "=== 9 failed in 1.00s ===\n=== 1 failed, 4 passed in 2.00s ===\n", (4, 1)),
        (-9, "", (0, 1)),
    ],
)
def test_what_counts(status: int, output: str, expected: tuple[int, int]) -> None:
    assert counted(status, output) == expected


def test_a_failure_hides_nothing_and_all_output_is_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run = Run(tmp_path / "logs", folder=tmp_path)
    status = run.play(
        (
            Lane((step("one", "echo says one; exit 3"), step("two", "echo says two >&2"))),
            Lane((step("three", "echo '== 7 passed in 0.10s =='"),), nice=15),
        )
    )
    assert status == 1
    shown = capfd.readouterr().out
    for line in ("says one", "says two", "== 7 passed in 0.10s =="):
        assert line in shown.splitlines()
    told = re.compile(r"one: FAILED with exit status 3, 0 passed, 1 failed, \d+ s")
    assert any(map(told.fullmatch, shown.splitlines()))
    assert shown.endswith("\n8 passed, 1 failed\n")


def test_lanes_run_beside_each_other(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    meet = "touch {0}; i=0; until [ -e {1} ]; do sleep 0.01; i=$((i+1)); [ $i -lt 6000 ]; done"
    both = (
        Lane((step("here", meet.format("here", "there")),)),
        Lane((step("there", meet.format("there", "here")),), nice=15),
    )
    assert Run(tmp_path / "logs", folder=tmp_path).play(both) == 0
    assert last_line(capfd) == "2 passed, 0 failed"


def test_the_lane_that_computes_leaves_the_processor_to_the_other(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    lane = Lane((step("nice", "nice"),), nice=15)
    assert Run(tmp_path / "logs", folder=tmp_path).play((lane,)) == 0
    assert int((tmp_path / "logs/nice.log").read_text()) == min(19, os.nice(0) + 15)


def test_a_run_that_is_ended_leaves_no_process_and_still_counts(tmp_path: Path) -> None:
    script = f"""
import sys
import time
from pathlib import Path
from tools import ci
ci.LOGS = Path({str(tmp_path)!r}) / "logs"
counted = ci.counted
# It stands still between the end of a step and what is said of it: nothing happens meanwhile that could be waited for.
def counted_on_a_slow_machine(status, output):
    time.sleep(0.5)
    return counted(status, output)
ci.counted = counted_on_a_slow_machine
slow = ci.Step("slow", ("sh", "-c", "echo $$ >{tmp_path}/pid; echo so far; exec sleep 600"))
ci.lanes = lambda: (ci.Lane((slow, ci.Step("later", ("true",)))),)
sys.exit(ci.main())
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        _wait_until_said("so far", tmp_path / "logs/slow.log")
        process.send_signal(signal.SIGTERM)
        shown, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert "so far" in shown.splitlines()
    assert shown.endswith("\n0 passed, 2 failed\n")
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_a_signal_while_lanes_are_begun_ends_what_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lane has its step already, the thread that began it still waits to hear that it lives."""
    start = threading.Thread.start

    def start_and_be_interrupted(thread: threading.Thread) -> None:
        start(thread)
        _wait_until_said("so far", tmp_path / "logs/slow.log")
        raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", start_and_be_interrupted)
    lane = Lane((step("slow", f"echo $$ >{tmp_path}/pid; echo so far; exec sleep 600"),))
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        Run(tmp_path / "logs", folder=tmp_path).play((lane, Lane((step("never", "true"),))))
    assert time.monotonic() - began < 300, "it was not slept out"
    assert last_line(capfd) == "0 passed, 2 failed"
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def _wait_until_said(words: str, log: Path) -> None:
    """Another process writes it, so it is looked for."""
    deadline = time.monotonic() + 60
    while not log.exists() or words not in log.read_text():
        assert time.monotonic() < deadline, f"{log} never said {words!r}"
        time.sleep(0.01)


def test_the_steps_are_all_that_there_is() -> None:
    """Runs of tests take the folders that another leaves, so none is played by neither."""
    commands = {step.name: " ".join(step.command) for lane in lanes() for step in lane.steps}
    for name, folders in (("processes", PROCESSES), ("tree", TREE)):
        for folder in folders:
            assert (ROOT / folder).is_dir()
            assert re.search(rf"[ =]{folder}\b", commands[name])
            assert f"--ignore={folder}" in commands["tests"]
    assert commands["tests"].count("--ignore") == len(PROCESSES + TREE)
    for verb in ("lint types layers check", "guest", "bench-gate", "fuzz", "sanitize"):
        assert any(f" {verb}" in command for command in commands.values())


def test_a_skip_fails_in_a_worker_too(tmp_path: Path) -> None:
    (tmp_path / "test_mark.py").write_text(
        "import pytest\n@pytest.mark.skip(reason='needs a thing')\ndef test_a(): pass\n"
    )
    (tmp_path / "test_file.py").write_text("import pytest\npytest.importorskip('no_such_module')\n")
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "SPARROW_NO_SKIPS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    passed, failed = counted(done.returncode, done.stdout)
    assert (passed, failed >= 1) == (0, True), done.stdout
    assert "no_such_module" in done.stdout
