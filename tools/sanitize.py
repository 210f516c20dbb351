"""Build the native core under AddressSanitizer and UndefinedBehaviorSanitizer and run the tests that use it.

A copy of the tree in build/sanitize is built there, so the normal build is not touched and the second time costs only
what changed. Python itself is not instrumented, so the sanitizers' run-time libraries are loaded in front of it.

LeakSanitizer looks at the end of the process. Of what it finds only memory that the core itself asked for counts: the
interpreter and other people's modules keep things for ever and say so nowhere. PYTHONMALLOC=malloc, because memory in
Python's own arenas is not searched for pointers.

Ends with one line, ``tests: N reports: M``, and exit status 1 unless every test passed and M is 0.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
TREE: Final = ROOT / "build/sanitize"
REPORTS: Final = TREE / "reports"
SANITIZERS: Final = "address,undefined"
#: What is copied: the build, the tests and what they import.
PARTS: Final = ("src", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
#: What a build leaves in a tree.
BUILT: Final = ("*.so", "__pycache__", "*.egg-info")
TESTS: Final = ("tests/native",)
#: In front of Python: the run-time libraries, and libstdc++ so that exceptions of other modules find theirs.
PRELOADED: Final = ("libasan.so", "libubsan.so", "libstdc++.so")
#: For what hangs outside of any test: one that hangs ends by itself. CI plays them beside the lane that computes.
TIMEOUT_S: Final = 3600.0

ASAN: Final = "abort_on_error=1:allocator_may_return_null=1:detect_stack_use_after_return=0"
UBSAN: Final = "print_stacktrace=1:halt_on_error=1:abort_on_error=1"
#: Leaks must not change the exit status: not all of them are ours.
LSAN: Final = "exitcode=0:max_leaks=0"

#: A block of a LeakSanitizer report, and the innermost frame of it that is not the allocator's.
LEAK: Final = re.compile(r"^(?:Direct|Indirect) leak of .*?(?=^$|\Z)", re.MULTILINE | re.DOTALL)
FRAME: Final = re.compile(r"^\s+#(\d+) 0x[0-9a-f]+ (?:in (\S+) )?.*$", re.MULTILINE)
ALLOCATORS: Final = frozenset({"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"})
OURS: Final = "sparrow/_native/"


def update(source: Path, target: Path) -> None:
    """Make ``target`` like ``source``; files that did not change keep their times, built ones stay."""
    if source.is_symlink():
        if not target.is_symlink():
            target.symlink_to(source.readlink())
        return
    if source.is_file():
        if not target.exists() or target.read_bytes() != source.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
        return
    target.mkdir(parents=True, exist_ok=True)
    ignored = shutil.ignore_patterns(*BUILT)
    here = {path.name for path in source.iterdir()}
    here -= ignored(str(source), sorted(here))
    for name in sorted(here):
        update(source / name, target / name)
    there = {path.name for path in target.iterdir()}
    there -= ignored(str(target), sorted(there))
    for name in sorted(there - here):
        gone = target / name
        if gone.is_dir() and not gone.is_symlink():
            shutil.rmtree(gone)
        else:
            gone.unlink()


def build(jobs: int) -> None:
    """Build in the copy. Raises CalledProcessError."""
    environment = {
        **os.environ,
        "SPARROW_SANITIZE": SANITIZERS,
        "SPARROW_BUILD_JOBS": str(jobs),
    }
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=TREE, env=environment, check=True)


def libraries() -> str:
    """The value of LD_PRELOAD. Raises SystemExit when the compiler has no sanitizers."""
    found = []
    for name in PRELOADED:
        done = subprocess.run(
            [*os.environ.get("CC", "gcc").split(), f"-print-file-name={name}"],
            check=True,
            capture_output=True,
            text=True,
        )
        path = Path(done.stdout.strip())
        if not path.is_absolute():
            raise SystemExit(
                f"{name} is missing: apt-get install gcc, or set CC to one that has it"
            )
        found.append(str(path.resolve()))
    return " ".join(found)


def run(tests: tuple[str, ...]) -> tuple[int, int]:
    """Run them; pytest's exit status and how many tests it ran."""
    result = TREE / "result.xml"
    result.unlink(missing_ok=True)
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir()
    log = f"log_path={REPORTS}/report"
    environment = {
        **os.environ,
        "PYTHONPATH": str(TREE / "src"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONMALLOC": "malloc",
        "LD_PRELOAD": libraries(),
        "ASAN_OPTIONS": f"{ASAN}:{log}",
        "UBSAN_OPTIONS": f"{UBSAN}:{log}",
        "LSAN_OPTIONS": f"{LSAN}:{log}",
    }
    command = [
        *(sys.executable, "-m", "pytest", "-q", "--no-header", "-p", "no:cacheprovider"),
        *("-p", "no:benchmark", "-o", "addopts=", "--import-mode=importlib"),
        *("--strict-markers", f"--junitxml={result}", "-o", "timeout=300", *tests),
    ]
    status = subprocess.run(
        command, cwd=TREE, env=environment, check=False, timeout=TIMEOUT_S
    ).returncode
    if not result.exists():
        return status or 1, 0
    suites = ET.parse(result).getroot().iter("testsuite")  # noqa: S314 - pytest wrote it a moment ago
    return status, sum(int(suite.get("tests", "0")) for suite in suites)


def findings(text: str) -> Iterator[str]:
    """The reports in one file that are about our code: every error, and leaks of what we asked for."""
    if "LeakSanitizer: detected memory leaks" not in text:
        if text.strip():
            yield text
        return
    for leak in LEAK.findall(text):
        for frame in FRAME.finditer(leak):
            if (frame[2] or "").removeprefix("__interceptor_") not in ALLOCATORS:
                if OURS in frame[0] and "Py" not in (frame[2] or ""):
                    yield leak
                break


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tests", nargs="*", default=TESTS, help="tests to run")
    parser.add_argument("--jobs", type=int, default=2, help="compilers at once")
    options = parser.parse_args()
    TREE.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        update(ROOT / part, TREE / part)
    build(options.jobs)
    status, tests = run(tuple(options.tests))
    found = [
        finding
        for path in sorted(REPORTS.iterdir())
        for finding in findings(path.read_text(errors="replace"))
    ]
    for finding in found:
        print(finding, file=sys.stderr)
    print(f"tests: {tests} reports: {len(found)}")
    return 0 if status == 0 and not found else 1


if __name__ == "__main__":
    sys.exit(main())
