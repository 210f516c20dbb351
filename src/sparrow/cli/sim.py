"""``sparrow sim``: whole clusters on made-up time, from a seed."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from random import SystemRandom
from typing import TYPE_CHECKING, Annotated

import typer

from sparrow import __version__

if TYPE_CHECKING:
    from sparrow.sim.run import Kind, Outcome


class Core(StrEnum):
    """What the nodes of the simulated clusters keep their data in."""

    MODEL = "model"
    NATIVE = "native"


def sim(  # noqa: PLR0917 - typer takes options from a plain signature
    seed: Annotated[int | None, typer.Option(help="Replay this one.")] = None,
    seconds: Annotated[float, typer.Option(help="Try fresh seeds for so long.")] = 10.0,
    first: Annotated[
        int | None, typer.Option(help="Derive the fresh seeds from this number.")
    ] = None,
    volumes: Annotated[int | None, typer.Option(min=1, max=16, help="Of each cluster.")] = None,
    nodes: Annotated[int | None, typer.Option(min=1, max=9, help="Of each cluster.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="With faults, per seed.")] = 25_000,
    core: Annotated[
        Core, typer.Option(help="The pure data plane, or the compiled one on virtual machines.")
    ] = Core.MODEL,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Print the last events of a replay anyway.")
    ] = False,
) -> None:
    """Run clusters of production code against faults, and check after every step.

    Exit status 1 when something was violated.
    """
    from sparrow.sim import run as runs  # noqa: PLC0415 - other verbs must not pay for it

    kind = _kind(core)

    def outcomes() -> Iterator[Outcome]:
        if seed is not None:
            shape = runs.reshaped(seed, nodes=nodes, volumes=volumes)
            yield runs.run_seed(seed, shape=shape, steps=steps, kind=kind)
            return
        until = runs.deadline(seconds)
        start = SystemRandom().getrandbits(runs.SEED_BITS) if first is None else first
        for one in runs.fresh_seeds(start):
            if until():
                return
            shape = runs.reshaped(one, nodes=nodes, volumes=volumes)
            yield runs.run_seed(one, shape=shape, steps=steps, kind=kind)

    began = time.monotonic()
    count = violations = stepped = minted = acked = 0
    simulated_s = 0.0
    for outcome in outcomes():
        count += 1
        stepped += outcome.steps
        simulated_s += outcome.simulated_s
        minted += outcome.minted
        acked += outcome.acked
        violations += bool(outcome.violation)
        if outcome.violation or (verbose and seed is not None):
            words = _replay(outcome.seed, nodes=nodes, volumes=volumes, steps=steps, core=core)
            _print(outcome, words)
    took = max(time.monotonic() - began, 1e-9)
    typer.echo(f"steps: {stepped} lines_minted: {minted} writes_acked: {acked}")
    typer.echo(
        f"seeds: {count} violations: {violations}"
        f" steps_per_s: {round(stepped / took)} speed_x: {simulated_s / took:.0f}"
    )
    if violations:
        raise typer.Exit(1)


def _kind(core: Core) -> Kind:
    from sparrow.sim import run as runs  # noqa: PLC0415 - as above

    if core is Core.MODEL:
        return runs.MODEL
    from sparrow.sim.compiled.run import COMPILED  # noqa: PLC0415 - needs the compiled core

    return COMPILED


def _replay(seed: int, *, nodes: int | None, volumes: int | None, steps: int, core: Core) -> str:
    words = ["sparrow sim", f"--seed {seed}", f"--steps {steps}"]
    words += [] if core is Core.MODEL else [f"--core {core}"]
    words += [] if nodes is None else [f"--nodes {nodes}"]
    words += [] if volumes is None else [f"--volumes {volumes}"]
    return " ".join(words)


def _print(outcome: Outcome, replay: str) -> None:
    for event in outcome.events:
        typer.echo(f"  {event}")
    typer.echo(f"seed: {outcome.seed} commit: {_commit()} digest: {outcome.digest}")
    typer.echo(f"violation: {outcome.violation or 'none'}")
    typer.echo(f"replay: {replay}")


def _commit() -> str:
    """The commit this runs from, or the version where there is no repository."""
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return __version__
    return found.stdout.strip()
