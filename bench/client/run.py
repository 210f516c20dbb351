"""Builds the load generator with the system's C compiler and runs it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

from bench.cpus import placement

SOURCE = Path(__file__).with_name("load.c")
#: Longer than any run.
LONGEST_S = 120.0


class LoadFailed(RuntimeError):
    """The client could not be built, or its server failed it; the message is the client's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What is asked of a server.

    Attributes:
        durable: writes ask for durability (FUA).
        block: bytes per request.
        depth: requests outstanding on each connection.
        span: bytes of the volume that are used, from its start.
        connections: how many share the client's one thread.
    """

    write: bool
    sequential: bool
    block: int
    depth: int
    span: int
    durable: bool = True
    connections: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it. Latencies are of the measured time; ``ios_all`` counts the warm-up too.

    Attributes:
        client_load: part of one processor that the client used, 0 to 1.
        used: what the caller's clock took from when all were connected to the last answer, so for ``ios_all`` requests;
            0 where there was no such clock, as in tables of before.
    """

    iops: float
    p50_us: float
    p99_us: float
    ios_all: int
    client_load: float
    used: float = 0.0


def build_client(folder: Path) -> Path:
    """Compile ``load.c``, which needs libiscsi-dev. Raises LoadFailed with the compiler's words."""
    return compile_c(SOURCE, folder, "-liscsi")


def compile_c(source: Path, folder: Path, *libraries: str) -> Path:
    """One source file to one program in ``folder``. Raises LoadFailed with the compiler's words."""
    program = folder / source.stem
    done = subprocess.run(
        ["gcc", "-O2", "-o", str(program), str(source), *libraries],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise LoadFailed(f"{source} does not compile with {' '.join(libraries)}:\n{done.stderr}")
    return program


def no_clock() -> float:
    """For whoever asks for no figure of the server."""
    return 0.0


def run_client(
    program: Path,
    target: Sequence[str],
    load: Load,
    *,
    seconds: float,
    clock: Callable[[], float] = no_clock,
) -> Outcome:
    """One run; ``target`` are the arguments that name the server, ``clock`` is read before and after the load."""
    return _run(program, target, load, clock, "--seconds", str(seconds))


def touch_span(program: Path, target: Sequence[str], load: Load) -> Outcome:
    """Read or write the whole span once, in order: fills a volume, warms its caches."""
    return _run(program, target, load, no_clock, "--once")


def _run(
    program: Path, target: Sequence[str], load: Load, clock: Callable[[], float], *more: str
) -> Outcome:
    arguments = [
        *(str(program), *target, "--cpu", str(placement().client)),
        *("--op", ("write" if load.durable else "cached") if load.write else "read"),
        *("--pattern", "sequential" if load.sequential else "random"),
        *("--block", str(load.block), "--depth", str(load.depth), "--span", str(load.span)),
        *("--connections", str(load.connections)),
        *more,
    ]
    with subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as client:
        # It gives up by itself after ten silent seconds; this is for one that is stuck.
        watchdog = Timer(LONGEST_S, client.kill)
        watchdog.start()
        try:
            assert client.stdout is not None
            connected = client.stdout.readline()
            before = clock()
            line = client.stdout.readline()
            used = clock() - before
            _, said = client.communicate()
        finally:
            watchdog.cancel()
    if client.returncode != 0 or not connected or not line:
        raise LoadFailed(said.strip() or f"the client ended with {client.returncode}")
    found = json.loads(line)
    return Outcome(
        iops=found["iops"],
        p50_us=found["p50_us"],
        p99_us=found["p99_us"],
        ios_all=found["ios_all"],
        client_load=found["client_cpu_s"] / max(found["seconds"], 1e-9),
        used=used,
    )
