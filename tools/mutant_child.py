"""What a run of planted faults does over and over: build one native module, run some tests, each in a fresh process.

Starting Python, Cython and pytest takes longer than either does here, so they are imported once, in multiprocessing's
fork server, and every process is a fork of that. Nothing of sparrow is imported there: a child finds it in its copy.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Final

#: No plugin of pytest: it rewrites what they assert when it imports them itself.
WARM: Final = (
    *("pytest", "asyncio", "structlog", "unittest.mock", "concurrent.futures.thread"),
    *("setuptools.command.build_ext", "Cython.Build", "Cython.Compiler.Main"),
)


def context() -> ForkServerContext:
    """Where children come from. Its server begins with the first of them, and ends with this process."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([*WARM, __name__])
    return found


def start(
    forks: ForkServerContext,
    folder: Path,
    arguments: list[str],
    environment: Mapping[str, str],
    output: Path,
) -> ForkServerProcess:
    """Begin ``python ARGUMENTS`` in a folder, in a process group of its own; what it says goes to ``output``."""
    process = forks.Process(
        target=_run, args=(str(folder), arguments, dict(environment), str(output))
    )
    process.start()
    return process


def _run(folder: str, arguments: list[str], environment: dict[str, str], output: str) -> None:
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    for number in (1, 2):
        os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), number)
    sys.dont_write_bytecode = True
    sys.path[:0] = [folder, *environment.get("PYTHONPATH", "").split(":")]
    if arguments[0] == "-m":
        sys.argv = arguments[1:]
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = arguments
        runpy.run_path(arguments[0], run_name="__main__")
