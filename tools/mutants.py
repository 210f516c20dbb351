"""Plant one-line faults in copies of the tree and show that the tests notice each of them.

tests/repo/mutants/NAME.toml lists the faults: a file, one line of it, what it is replaced by, and the tests that must
fail then. Every worker has a copy of its own, so the tree one works in is never touched. A fault in a native module
(.pyx) is built there, that module alone, on what the tree has built. Ends with one line, ``killed: K/N``, and exit
status 1 unless K is N.

Without the fault its tests must pass, or their failure would mean nothing: each test is tried so once. What was found
is kept in build/mutants (``mutant_journal``), so a run that was stopped, by Ctrl-C or ``--seconds``, goes on there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Final

from tools import mutant_child
from tools.mutant_journal import Fingerprints, Journal

ROOT: Final = Path(__file__).resolve().parents[1]
LISTS: Final = ROOT / "tests/repo/mutants"
#: A mutant that makes its tests run longer than this is noticed as well.
TIMEOUT_S: Final = 90.0
#: So many faults have their tests tried together without any fault, which starts pytest once for all.
TOGETHER: Final = 4
#: One native module: translated and compiled.
BUILD_S: Final = 300.0
#: pytest's exit statuses: all passed; some failed; interrupted, as by a module that cannot be imported.
PASSED: Final = 0
NOTICED: Final = frozenset({1, 2})
#: What a copy needs besides src and tests.
EXTRA: Final = ("pyproject.toml",)
#: What it needs to build native modules in.
TO_BUILD: Final = ("setup.py", "README.md", "LICENSE")
BUILT: Final = "build"
FLAGS: Final = "build/flags.txt"
#: Where Debian puts compilers that look into ccache first. A copy's place is not part of what is compiled.
CCACHE: Final = Path("/usr/lib/ccache")
JOURNALS: Final = ROOT / "build/mutants"
#: Exit status of a run that has not judged all.
UNFINISHED: Final = 3
NATIVE: Final = "src/_native/"
FIELDS: Final = frozenset({"name", "file", "old", "new", "tests"})


class BadList(Exception):
    """A list of mutants says something that cannot be meant."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One planted fault: ``old`` is a piece of one line that occurs exactly once in ``file``."""

    name: str
    file: str
    old: str
    new: str
    #: pytest node ids, at least one of which must fail.
    tests: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    mutant: Mutant
    killed: bool
    seconds: float
    #: Why the run says nothing, if it does not: the list or the environment is broken.
    fault: str = ""


def load(path: Path) -> list[Mutant]:
    """Read a list. Raises ``BadList`` for unknown or missing fields and for names used twice."""
    data = tomllib.loads(path.read_text())
    if set(data) != {"mutant"}:
        raise BadList(f"{path.name}: only [[mutant]] tables, found {', '.join(sorted(data))}")
    mutants = [_mutant(row, path.name) for row in data["mutant"]]
    names = [mutant.name for mutant in mutants]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise BadList(f"{path.name}: named twice: {', '.join(twice)}")
    return mutants


def _mutant(row: dict[str, object], where: str) -> Mutant:
    name = row.get("name", "?")
    if set(row) != FIELDS:
        raise BadList(
            f"{where}: {name}: fields {', '.join(sorted(FIELDS ^ set(row)))} missing or unknown"
        )
    tests, texts = row.pop("tests"), {key: str(value) for key, value in row.items()}
    if not isinstance(tests, list) or not tests:
        raise BadList(f"{where}: {name} names no test")
    if "\n" in texts["old"] + texts["new"]:
        raise BadList(f"{where}: {name} is more than one line")
    if texts["old"] == texts["new"]:
        raise BadList(f"{where}: {name} changes nothing")
    return Mutant(**texts, tests=tuple(str(test) for test in tests))


def fault(mutant: Mutant, root: Path = ROOT) -> str:
    """Why a mutant cannot be planted in the tree below ``root``; empty if it can."""
    path = root / mutant.file
    if not path.is_file():
        return f"{mutant.name}: {mutant.file} does not exist"
    text = path.read_text()
    found = text.count(mutant.old)
    if found != 1:
        return f"{mutant.name}: `{mutant.old.strip()}` occurs {found} times in {mutant.file}"
    if mutant.file.endswith(".py"):
        try:
            compile(text.replace(mutant.old, mutant.new), mutant.file, "exec")
        except SyntaxError as error:
            return f"{mutant.name}: the mutated file does not compile: {error}"
    return ""


class Interrupted(Exception):
    """The run is to end: what is under way says nothing."""


class Runner:
    """Runs Python in a folder, once at a time, until it is told to end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said = folder.with_suffix(".txt")
        self._forks = mutant_child.context()
        self._process: ForkServerProcess | None = None
        self._ended = threading.Event()

    def end(self) -> None:
        """End what runs, from another thread; nothing is run any more."""
        self._ended.set()
        if self._process is not None:
            _kill(self._process)

    def python(
        self, arguments: list[str], environment: dict[str, str], timeout_s: float
    ) -> tuple[int | None, str]:
        """The exit status, None at the timeout, and the end of what was said.

        What it started ends with it, and Ctrl-C is ours to see.

        Raises:
            Interrupted: ``end`` was called.
        """
        if self._ended.is_set():
            raise Interrupted
        self._said.write_text("")
        process = mutant_child.start(self._forks, self._folder, arguments, environment, self._said)
        self._process = process
        if self._ended.is_set():
            self.end()
        process.join(timeout_s)
        status = process.exitcode
        self._process = None
        _kill(process)
        if self._ended.is_set():
            raise Interrupted
        return status, self._said.read_text(errors="replace")[-2000:]


def _kill(process: ForkServerProcess) -> None:
    """End a child and all it started. It leads a group soon after its start."""
    assert process.pid is not None
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join()


class Copy:
    """A copy of the tree below ``directory`` in which one mutant at a time is planted."""

    def __init__(self, directory: Path, *, native: bool = False) -> None:
        self.root = directory
        self.runner = Runner(directory)
        _copy_sources(ROOT / "src", directory / "src", native=native)
        _copy_sources(ROOT / "tests", directory / "tests")
        for name in EXTRA:
            shutil.copy2(ROOT / name, directory / name)
        if native:
            for name in TO_BUILD:
                shutil.copy2(ROOT / name, directory / name)
            (directory / BUILT).mkdir()
            shutil.copy2(ROOT / FLAGS, directory / FLAGS)

    def judge(self, mutant: Mutant) -> Verdict:
        """Plant it, run its tests, take it out again."""
        found = fault(mutant, self.root)
        if found:
            return Verdict(mutant=mutant, killed=False, seconds=0.0, fault=found)
        path, began = self.root / mutant.file, time.monotonic()
        sound = path.read_text()
        path.write_text(sound.replace(mutant.old, mutant.new))
        built = self._built(mutant)
        kept = {one: one.read_bytes() for one in built}
        try:
            trouble = self._build(mutant) if built else ""
            if trouble:
                return Verdict(mutant=mutant, killed=False, seconds=0.0, fault=trouble)
            began = time.monotonic()
            status, output = self.run(mutant.tests)
        finally:
            path.write_text(sound)
            for one, content in kept.items():
                one.write_bytes(content)
        seconds = time.monotonic() - began
        # Below zero: a signal, such as the core's own assertions end the process with.
        if status is None or status < 0 or status in NOTICED:
            return Verdict(mutant=mutant, killed=True, seconds=seconds)
        if status == PASSED:
            return Verdict(mutant=mutant, killed=False, seconds=seconds)
        fault_text = f"{mutant.name}: pytest ended with {status}\n{output}"
        return Verdict(mutant=mutant, killed=False, seconds=seconds, fault=fault_text)

    def _built(self, mutant: Mutant) -> list[Path]:
        """The compiled form of the module, for a native one."""
        path = self.root / mutant.file
        if path.suffix != ".pyx":
            return []
        return sorted(path.parent.glob(f"{path.stem}.cpython-*.so"))

    def _build(self, mutant: Mutant) -> str:
        """Build the one module; why that failed, empty if it did not."""
        module = mutant.file.removeprefix(NATIVE).removesuffix(".pyx")
        environment = {
            "SPARROW_ONLY": f"{module}.pyx",
            "SPARROW_BUILD_JOBS": "1",
            "CCACHE_NOHASHDIR": "1",
        }
        if CCACHE.is_dir():
            environment["PATH"] = f"{CCACHE}:{os.environ['PATH']}"
        command = ["setup.py", "-q", "build_ext", "--inplace"]
        status, output = self.runner.python(command, environment, BUILD_S)
        return "" if status == 0 else f"{mutant.name}: does not build ({status})\n{output}"

    def run(
        self, tests: tuple[str, ...], *, timeout_s: float = TIMEOUT_S
    ) -> tuple[int | None, str]:
        """The exit status of pytest, None at the timeout, and the end of what it said."""
        command = [
            *("-m", "pytest", "-x", "-q", "--no-header"),
            *("-p", "no:cacheprovider", "-p", "no:benchmark", "-o", "addopts="),
            *("--import-mode=importlib", "--strict-markers", *tests),
        ]
        environment = {"PYTHONPATH": str(self.root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
        return self.runner.python(command, environment, timeout_s)

    def imports_itself(self) -> bool:
        """Whether tests that run here import this copy, not the tree it was made from."""
        done = subprocess.run(
            [sys.executable, "-B", "-c", "import sparrow; print(sparrow.__file__)"],
            cwd=self.root,
            env={**os.environ, "PYTHONPATH": str(self.root / "src")},
            capture_output=True,
            text=True,
            check=True,
        )
        return Path(done.stdout.strip()).is_relative_to(self.root)


def _copy_sources(source: Path, target: Path, *, native: bool = False) -> None:
    """Copy text; link compiled modules unless mutants change them; leave out what runs have written."""

    def one(path: str, into: str) -> None:
        if path.endswith(".so") and not native:
            Path(into).symlink_to(path)
        else:
            shutil.copy2(path, into)

    shutil.copytree(
        source,
        target,
        symlinks=True,
        copy_function=one,
        ignore=shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache"),
    )


class Run:
    """One run over ``mutants``: which verdicts are known, and what finds the others."""

    def __init__(self, mutants: list[Mutant], journal: Journal, *, as_is: bool) -> None:
        self._journal = journal
        self._as_is = as_is
        self._until = float("inf")
        self._waiting: queue.SimpleQueue[list[Mutant]] = queue.SimpleQueue()
        self._found: queue.SimpleQueue[Verdict | BaseException | None] = queue.SimpleQueue()
        self._prints = Fingerprints(ROOT)
        self.known: list[Verdict] = []
        self.open: list[Mutant] = []
        for mutant in mutants:
            row = journal.get(self.key(mutant))
            if row is None:
                self.open.append(mutant)
            else:
                killed, seconds = bool(row["killed"]), float(str(row["seconds"]))
                self.known.append(Verdict(mutant=mutant, killed=killed, seconds=seconds))

    def judge(self, *, workers: int, seconds: float) -> Iterator[Verdict]:
        """Verdicts in the order in which they are found, until ``seconds`` have passed.

        Copies live below one new temporary folder. A verdict that says nothing is not kept.
        """
        if seconds:
            self._until = time.monotonic() + seconds
        for first in range(0, len(self.open), TOGETHER):
            self._waiting.put(self.open[first : first + TOGETHER])
        with tempfile.TemporaryDirectory(prefix="sparrow-mutants-") as name:
            native = any(mutant.file.endswith(".pyx") for mutant in self.open)
            copies = [Copy(Path(name) / f"w{number}", native=native) for number in range(workers)]
            for copy in copies:
                if not copy.imports_itself():
                    raise BadList(f"tests in {copy.root} do not import the copy")
            threads = [threading.Thread(target=self._work, args=(copy,)) for copy in copies]
            for thread in threads:
                thread.start()
            try:
                yield from self._verdicts(len(threads))
            finally:
                for copy in copies:
                    copy.runner.end()
                for thread in threads:
                    thread.join()

    def _verdicts(self, running: int) -> Iterator[Verdict]:
        """What so many workers find, until each of them is done."""
        while running:
            found = self._found.get()
            if isinstance(found, BaseException):
                raise found
            if found is None:
                running -= 1
            else:
                yield found

    def _work(self, copy: Copy) -> None:
        """One worker's thread."""
        try:
            while time.monotonic() < self._until:
                some = self._waiting.get_nowait()
                self._try_sound(copy, some)
                for mutant in some:
                    if time.monotonic() < self._until:
                        self._found.put(self._judge(copy, mutant))
            self._found.put(None)
        except queue.Empty:
            self._found.put(None)
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            self._found.put(error)

    def key(self, mutant: Mutant) -> str:
        """What a verdict on it is kept under."""
        return self._prints.of(mutant.tests, mutant.file, mutant.old, mutant.new)

    def _judge(self, copy: Copy, mutant: Mutant) -> Verdict:
        trouble = self._sound(copy, mutant.tests)
        if trouble:
            text = f"{mutant.name}: its tests fail without it\n{trouble}"
            return Verdict(mutant=mutant, killed=False, seconds=0.0, fault=text)
        verdict = copy.judge(mutant)
        # One without an end may be a busy machine: the next run tries again.
        if not verdict.fault and verdict.seconds < TIMEOUT_S:
            finding = {"killed": verdict.killed, "seconds": round(verdict.seconds, 1)}
            self._journal.add(self.key(mutant), name=mutant.name, **finding)
        return verdict

    def _try_sound(self, copy: Copy, mutants: list[Mutant]) -> None:
        """Try the tests of several faults at once. Which of them fails is found out for each fault."""
        tests = sorted({test for mutant in mutants for test in mutant.tests})
        self._sound(copy, tuple(tests))

    def _sound(self, copy: Copy, tests: tuple[str, ...]) -> str:
        """Why the tests do not pass without any fault, empty if they do. Those known to pass are not run again."""
        if self._as_is:
            return ""
        keys = {test: self._prints.of([test]) for test in tests}
        unknown = tuple(test for test in tests if self._journal.get(keys[test]) is None)
        if unknown:
            status, output = copy.run(unknown, timeout_s=TIMEOUT_S * len(unknown))
            if status != PASSED:
                return output
            for test in unknown:
                self._journal.add(keys[test], sound=test)
        return ""


def told(verdict: Verdict, number: int, count: int) -> str:
    """One line about a verdict, the ``number``-th of ``count``."""
    word = "killed" if verdict.killed else ("BROKEN" if verdict.fault else "SURVIVED")
    if verdict.killed and verdict.seconds >= TIMEOUT_S:
        word = "no end"  # noticed, but look whether the machine was merely busy
    return f"{number:4}/{count}  {word:9}{verdict.seconds:6.1f} s  {verdict.mutant.name}"


def chosen(mutants: list[Mutant], *, only: str, shard: str) -> list[Mutant]:
    """The mutants whose name or file contains ``only``; of those the part ``shard``, K/N, every N-th from the K-th.

    Raises:
        ValueError: ``shard`` is not K/N with 1 <= K <= N.
    """
    part, _, parts = shard.partition("/")
    if not (part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise ValueError(f"--shard {shard}: say K/N, such as 1/3")
    found = [mutant for mutant in mutants if only in mutant.name or only in mutant.file]
    return found[int(part) - 1 :: int(parts)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("list", help="name of a list in tests/repo/mutants")
    parser.add_argument("--only", default="", help="mutants whose name or file contains this")
    parser.add_argument("--shard", default="1/1", help="K/N: the K-th of N parts")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no mutant after these")
    parser.add_argument("--again", action="store_true", help="judge also what is known")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--as-is", action="store_true", help="do not try the tests without faults")
    options = parser.parse_args()
    try:
        mutants = chosen(
            load(LISTS / f"{options.list}.toml"), only=options.only, shard=options.shard
        )
    except (BadList, ValueError, OSError) as error:
        parser.error(str(error))
    if not mutants:
        parser.error(f"no mutant of {options.list} matches {options.only!r}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    journal = JOURNALS / f"{options.list}.jsonl"
    run = Run(mutants, Journal(journal, fresh=options.again), as_is=options.as_is)
    began, verdicts = time.monotonic(), list(run.known)
    print(f"{len(run.known)} of {len(mutants)} known from {journal.relative_to(ROOT)}")
    try:
        for verdict in run.judge(workers=options.workers, seconds=options.seconds):
            verdicts.append(verdict)
            print(told(verdict, len(verdicts), len(mutants)), flush=True)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    except BadList as error:
        print(error, file=sys.stderr)
        return 2
    bad = [verdict for verdict in verdicts if not verdict.killed]
    for verdict in bad:
        print(f"\n{verdict.mutant.file}: {verdict.mutant.name}")
        print(f"  - {verdict.mutant.old.strip()}\n  + {verdict.mutant.new.strip()}")
        print(f"  {verdict.fault or 'noticed by none of ' + ', '.join(verdict.mutant.tests)}")
    print(f"{time.monotonic() - began:.0f} s")
    if len(verdicts) < len(mutants):
        print(f"judged: {len(verdicts)}/{len(mutants)}, the same command goes on")
        return UNFINISHED
    print(f"killed: {len(verdicts) - len(bad)}/{len(mutants)}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
