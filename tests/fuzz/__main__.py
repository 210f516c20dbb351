"""``make fuzz``: every target in turn, for some seconds in all.

    python -m tests.fuzz --seconds 60
    python -m tests.fuzz --target nbd_transmission --seed 7 --at 1234     # play again what a failure named

Each target has a process of its own. A failure prints the target, the seed, the number of the input, the input itself
as a corpus file has it, and the command that plays its round again. The last line is ``inputs: N crashes: M``; the exit
status is 1 when M is not 0. Without ``--seed`` the seed is drawn from the clock, and printed.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.mutate import corpus, input_of
from tests.fuzz.play import Journal, play
from tests.fuzz.targets import TARGETS

#: Beyond its budget a process that hangs is ended: that is a failure too.
PATIENCE_S = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description="feed mutated conversations to every parser")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--target", choices=sorted(TARGETS), action="append", default=None)
    parser.add_argument("--at", type=int, default=None, help="play the round of this input again")
    parser.add_argument("--child", type=Path, default=None, help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = options.target or sorted(TARGETS)
    seed = int(time.time()) % 1_000_000 if options.seed is None else options.seed
    if options.child is not None:
        return _child(names[0], seed, options.seconds, options.child)
    if options.at is not None:
        outcome = play(names[0], seed, first=options.at, count=1)
        print(outcome.failure or f"{names[0]}: nothing failed up to input {options.at}")
        return 1 if outcome.failure else 0
    print(f"seed: {seed}")
    inputs = crashes = 0
    for name in names:
        played, failed = _run(name, seed, options.seconds / len(names))
        print(f"{name}: inputs: {played} crashes: {failed}", flush=True)
        inputs += played
        crashes += failed
    print(f"inputs: {inputs} crashes: {crashes}")
    return 1 if crashes else 0


def _child(target: str, seed: int, seconds: float, journal: Path) -> int:
    outcome = play(target, seed, seconds=seconds, journal=Journal(journal))
    if outcome.failure:
        print(outcome.failure, file=sys.stderr)
    return 1 if outcome.failure else 0


def _run(target: str, seed: int, seconds: float) -> tuple[int, int]:
    """Inputs played and failures: at most one, for what it broke may be what the next ones meet."""
    with tempfile.TemporaryDirectory(prefix="sparrow-fuzz-") as place:
        journal = Path(place) / "journal"
        command = [sys.executable, "-m", "tests.fuzz", "--target", target, "--seed", str(seed)]
        try:
            done = subprocess.run(
                [*command, "--seconds", str(seconds), "--child", str(journal)],
                stderr=subprocess.PIPE,
                timeout=seconds + PATIENCE_S,
                check=False,
            )
            status, words = done.returncode, done.stderr.decode(errors="replace")
        except subprocess.TimeoutExpired as error:
            status, words = -1, f"no progress\n{(error.stderr or b'').decode(errors='replace')}"
        number = Journal.read(journal) if journal.exists() else 0
    if status == 0:
        return number + 1, 0
    print(f"{target} failed at or before input {number} of seed {seed}, exit status {status}:")
    print(words[-4000:])
    print(f"input: {input_of(target, corpus(target), seed, number).hex()}")
    print(f"again: {' '.join(command)} --at {number}", flush=True)
    return number + 1, 1


if __name__ == "__main__":
    sys.exit(main())
