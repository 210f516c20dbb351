"""``make ci``: everything CI does, what needs the processor beside what waits.

Tests of whole processes mostly wait, for leases, timers and disks; a build, a simulation and callgrind only compute. So
there are two lanes, each plays its steps one after the other, and the one that computes takes what the other leaves
(nice; where the kernel shares between sessions first, the nodes of a cluster, each a session, have their part anyway).
Every step is a verb of the Makefile and is played whatever became of those before it. Its output goes to a file of
``build/ci`` and is printed whole when it ends; once a minute a line says where the running ones are.

The last line is ``N passed, M failed``: tests, and one for each step that is no run of tests. Exit status 0 only when
nothing failed.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LOGS: Final = ROOT / "build/ci"
PROGRESS_S: Final = 60.0
#: For the processes of a step that is given up; then they are killed.
END_S: Final = 10.0
#: Tests that start whole processes.
PROCESSES: Final = ("tests/e2e", "tests/interop")
#: Tests of the tree itself; one builds a whole wheel.
TREE: Final = ("tests/repo",)
#: How pytest ends: "== 1 failed, 2 passed, 1 warning in 3.21s ==", with -q without the frame.
SUMMARY: Final = re.compile(r"^=* ?((?:\d+ [a-z]+,? )+)in \d.*s(?: \([\d:]+\))? ?=*$", re.MULTILINE)
COUNT: Final = re.compile(r"(\d+) (passed|failed|errors?|xfailed|xpassed)\b")
MAKES_OWN: Final = frozenset({"MAKEFLAGS", "MFLAGS", "MAKELEVEL"})
PASSED: Final = frozenset({"passed", "xfailed"})


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    command: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lane:
    """Steps one after the other; a high ``nice`` makes them wait for the other lanes."""

    steps: tuple[Step, ...]
    nice: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a step ended."""

    step: Step
    status: int
    seconds: float
    passed: int
    failed: int

    def line(self) -> str:
        how = "ok" if self.status == 0 else f"FAILED with exit status {self.status}"
        return (
            f"{self.step.name}: {how}, {self.passed} passed, {self.failed} failed,"
            f" {self.seconds:.0f} s"
        )


def lanes() -> tuple[Lane, ...]:
    others = " ".join(f"--ignore={path}" for path in PROCESSES + TREE)
    processes = f"-n 2 --dist loadfile --no-loadscope-reorder {' '.join(PROCESSES)}"
    return (
        Lane(
            (
                # Mounted file systems, over iSCSI and over NVMe/TCP, two kills each of the primary's node.
                Step("guest", ("make", "guest", "ARGS=-k survives --kills 2")),
                Step("processes", ("make", "test", f"ARGS={processes} --durations=25")),
                # Computes, but by now the other lane would compute alone; it builds in a folder of its own.
                Step("sanitize", ("make", "sanitize")),
                Step("tree", ("make", "test", f"ARGS={' '.join(TREE)}")),
            )
        ),
        Lane(
            (
                # -k: one broken rule does not hide the next.
                Step("rules", ("make", "-k", "lint", "types", "layers", "check")),
                Step("tests", ("make", "test", f"ARGS={others} --durations=25")),
                Step("bench-gate", ("make", "bench-gate")),
                Step("fuzz", ("make", "fuzz", "SECONDS=40")),
            ),
            nice=15,
        ),
    )


def _environment() -> dict[str, str]:
    """Ours without what a make around us says to its own makes; no test may be skipped."""
    kept = {name: value for name, value in os.environ.items() if name not in MAKES_OWN}
    return {**kept, "SPARROW_NO_SKIPS": "1"}


def counted(status: int, output: str) -> tuple[int, int]:
    """Passed and failed: of pytest's last summary if there is one, else the step itself.

    A step that failed has at least one failure, whatever its tests say.
    """
    summaries: list[str] = SUMMARY.findall(output)
    if not summaries:
        return int(status == 0), int(status != 0)
    passed = failed = 0
    for number, kind in COUNT.findall(summaries[-1]):
        if kind in PASSED:
            passed += int(number)
        else:
            failed += int(number)
    return passed, max(failed, int(status != 0))


class Run:
    """Lanes that are being played, and what they say."""

    def __init__(self, logs: Path, *, folder: Path = ROOT) -> None:
        self._logs = logs
        self._folder = folder
        self._saying = threading.Lock()
        #: Guards the two below; told when a step's end was said.
        self._changing = threading.Condition()
        #: Steps that were begun and whose end was not said yet.
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._given_up = False
        self._began = time.monotonic()
        self.outcomes: list[Outcome] = []

    def play(self, lanes: Sequence[Lane]) -> int:
        """Play all of them; the exit status."""
        self._logs.mkdir(parents=True, exist_ok=True)
        threads = [threading.Thread(target=self._lane, args=(lane,)) for lane in lanes]
        try:
            # In here too: a signal may find us while start() waits for a lane whose step runs already.
            for thread in threads:
                thread.start()
            for thread in threads:
                while thread.is_alive():
                    thread.join(PROGRESS_S)
                    self._progress()
        finally:
            self._give_up()
            # Not join(): of a thread whose join a signal broke off once, Python says that it has ended.
            with self._changing:
                self._changing.wait_for(lambda: not self._running)
            wanted = [step.name for lane in lanes for step in lane.steps]
            status = self._conclude(wanted)
        return status

    def _lane(self, lane: Lane) -> None:
        for step in lane.steps:
            began = time.monotonic()
            log = self._logs / f"{step.name}.log"
            process = self._begin(step, log, lane.nice)
            if process is None:
                return
            try:
                self._say(f"{step.name}: begun")
                status = process.wait()
                output = log.read_text(errors="replace")
                passed, failed = counted(status, output)
                outcome = Outcome(step, status, time.monotonic() - began, passed, failed)
                with self._saying:
                    self.outcomes.append(outcome)
                    print(f"\n######## {step.name}: {' '.join(step.command)}\n{output.rstrip()}")
                self._say(f"######## {outcome.line()}")
            finally:
                with self._changing:
                    del self._running[step.name]
                    self._changing.notify_all()

    def _begin(self, step: Step, log: Path, nice: int) -> subprocess.Popen[bytes] | None:
        """Its process; none when the run is given up."""
        with log.open("wb") as file, self._changing:
            if self._given_up:
                return None
            process = subprocess.Popen(
                ("nice", "-n", str(nice), *step.command),
                cwd=self._folder,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            self._running[step.name] = process
            return process

    def _give_up(self) -> None:
        """End what runs; nothing more is begun. Nothing happens when all has ended.

        Ctrl-C of a terminal reaches them too, for they are of our process group; make hands SIGTERM on.
        """
        with self._changing:
            self._given_up = True
            running = list(self._running.values())
        for number in (signal.SIGTERM, signal.SIGKILL):
            for process in running:
                process.send_signal(number)
            for process in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(END_S)
            running = [process for process in running if process.poll() is None]

    def _conclude(self, wanted: Sequence[str]) -> int:
        """The table and the last line; the exit status."""
        ended = {outcome.step.name: outcome for outcome in self.outcomes}
        lines = [ended[name].line() for name in wanted if name in ended]
        failed = sum(outcome.failed for outcome in self.outcomes)
        failed += sum(name not in ended for name in wanted)
        lines.append(f"{sum(outcome.passed for outcome in self.outcomes)} passed, {failed} failed")
        with self._saying:
            print("\n" + "\n".join(lines), flush=True)
        return int(failed > 0)

    def _progress(self) -> None:
        with self._changing:
            running = list(self._running)
        if running:
            self._say(" | ".join(f"{name}: {self._last_line(name)}" for name in running))

    def _last_line(self, name: str) -> str:
        return next(_lines_backwards(self._logs / f"{name}.log"), "")[-70:]

    def _say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._began), 60)
        with self._saying:
            print(f"[{minutes:02}:{seconds:02}] {text}", flush=True)


def _lines_backwards(path: Path, size: int = 4096) -> Iterator[str]:
    """Lines with something on them of a file's last bytes, the last first."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - size))
        lines = file.read().decode(errors="replace").splitlines()
    yield from (line.strip() for line in reversed(lines) if line.strip())


def main() -> int:
    # SIGTERM ends it as Ctrl-C does: with what was said so far.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return Run(LOGS).play(lanes())
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
