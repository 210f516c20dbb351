"""Plant one-line faults in copies of the tree and show that the tests notice each of them.

tests/repo/mutants/NAME.toml lists the faults: a file, one line of it, what it is replaced by, and the tests that must
fail then. Every worker has a copy of its own, so the tree one works in is never touched. A fault in a native module
(.pyx) is built there, that module alone, on what the tree has built. Ends with one line, ``killed: K/N``, and exit
status 1 unless K is N.
"""

from __future__ import annotations

import argparse
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
LISTS: Final = ROOT / "tests/repo/mutants"
#: A mutant that makes its tests run longer than this is noticed as well.
TIMEOUT_S: Final = 90.0
#: All the tests of a list, once, without any fault.
SOUND_S: Final = 1800.0
#: One native module: translated and compiled.
BUILD_S: Final = 300.0
#: pytest's exit statuses: all passed; some failed; interrupted, as by a module that cannot be imported.
PASSED: Final = 0
NOTICED: Final = frozenset({1, 2})
#: What a copy needs besides src and tests.
EXTRA: Final = ("pyproject.toml",)
#: What it needs to build native modules in, and what is built already.
TO_BUILD: Final = ("setup.py", "README.md", "LICENSE")
BUILT: Final = "build"
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


class Copy:
    """A copy of the tree below ``directory`` in which one mutant at a time is planted."""

    def __init__(self, directory: Path, *, native: bool = False) -> None:
        self.root = directory
        _copy_sources(ROOT / "src", directory / "src", native=native)
        _copy_sources(ROOT / "tests", directory / "tests")
        for name in EXTRA:
            shutil.copy2(ROOT / name, directory / name)
        if native:
            for name in TO_BUILD:
                shutil.copy2(ROOT / name, directory / name)
            shutil.copytree(
                ROOT / BUILT, directory / BUILT, ignore=shutil.ignore_patterns("sanitize", "lib.*")
            )

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
        done = subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", "--inplace"],
            cwd=self.root,
            env={**os.environ, "SPARROW_ONLY": f"{module}.pyx", "SPARROW_BUILD_JOBS": "1"},
            capture_output=True,
            text=True,
            timeout=BUILD_S,
            check=False,
        )
        if done.returncode == 0:
            return ""
        return f"{mutant.name}: does not build\n{(done.stdout + done.stderr)[-1500:]}"

    def run(
        self, tests: tuple[str, ...], *, timeout_s: float = TIMEOUT_S
    ) -> tuple[int | None, str]:
        """The exit status of pytest, None at the timeout, and the end of what it said."""
        command = [
            *(sys.executable, "-B", "-m", "pytest", "-x", "-q", "--no-header"),
            *("-p", "no:cacheprovider", "-p", "no:benchmark", "-o", "addopts="),
            *("--import-mode=importlib", "--strict-markers", *tests),
        ]
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.root / "src"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        try:
            done = subprocess.run(
                command,
                cwd=self.root,
                env=environment,
                capture_output=True,
                text=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return None, "no end"
        return done.returncode, (done.stdout + done.stderr)[-2000:]

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


def judge_all(mutants: list[Mutant], *, workers: int, as_is: bool = False) -> Iterator[Verdict]:
    """Verdicts in the order in which they are found. Copies live below one new temporary folder."""
    waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
    verdicts: queue.SimpleQueue[Verdict | BaseException] = queue.SimpleQueue()
    for mutant in mutants:
        waiting.put(mutant)

    def work(copy: Copy) -> None:
        while True:
            try:
                mutant = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                verdicts.put(copy.judge(mutant))
            except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
                verdicts.put(error)
                return

    with tempfile.TemporaryDirectory(prefix="sparrow-mutants-") as name:
        native = any(mutant.file.endswith(".pyx") for mutant in mutants)
        copies = [Copy(Path(name) / f"w{number}", native=native) for number in range(workers)]
        if not as_is:
            _require_sound(copies, mutants)
        threads = [threading.Thread(target=work, args=(copy,)) for copy in copies]
        for thread in threads:
            thread.start()
        for _ in mutants:
            verdict = verdicts.get()
            if isinstance(verdict, BaseException):
                raise verdict
            yield verdict
        for thread in threads:
            thread.join()


def _require_sound(copies: list[Copy], mutants: list[Mutant]) -> None:
    """Without a mutant every named test passes, or a failure would mean nothing."""
    for copy in copies:
        if not copy.imports_itself():
            raise BadList(f"tests in {copy.root} do not import the copy")
    named = tuple(sorted({test for mutant in mutants for test in mutant.tests}))
    status, output = copies[0].run(named, timeout_s=SOUND_S)
    if status != PASSED:
        raise BadList(f"the tests fail without any mutant:\n{output}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("list", help="name of a list in tests/repo/mutants")
    parser.add_argument("--only", default="", help="mutants whose name or file contains this")
    parser.add_argument("--workers", type=int, default=min(os.cpu_count() or 1, 4))
    parser.add_argument("--as-is", action="store_true", help="do not try the tests without faults")
    options = parser.parse_args()
    mutants = [
        mutant
        for mutant in load(LISTS / f"{options.list}.toml")
        if options.only in mutant.name or options.only in mutant.file
    ]
    if not mutants:
        parser.error(f"no mutant of {options.list} matches {options.only!r}")
    began, killed, bad = time.monotonic(), 0, []
    try:
        for verdict in judge_all(mutants, workers=options.workers, as_is=options.as_is):
            killed += verdict.killed
            word = "killed" if verdict.killed else ("BROKEN" if verdict.fault else "SURVIVED")
            if verdict.killed and verdict.seconds >= TIMEOUT_S:
                word = "no end"  # noticed, but look whether the machine was merely busy
            print(f"{word:9}{verdict.seconds:6.1f} s  {verdict.mutant.name}", flush=True)
            if not verdict.killed:
                bad.append(verdict)
    except BadList as error:
        print(error, file=sys.stderr)
        return 2
    for verdict in bad:
        print(f"\n{verdict.mutant.file}: {verdict.mutant.name}")
        print(f"  - {verdict.mutant.old.strip()}\n  + {verdict.mutant.new.strip()}")
        print(f"  {verdict.fault or 'noticed by none of ' + ', '.join(verdict.mutant.tests)}")
    print(f"{time.monotonic() - began:.0f} s")
    print(f"killed: {killed}/{len(mutants)}")
    return 0 if killed == len(mutants) else 1


if __name__ == "__main__":
    sys.exit(main())
