"""Plays inputs against one target in this process, and keeps a journal that survives it.

A core that aborts takes the process along: whoever started it reads in the journal which input was being played.
"""

from __future__ import annotations

import mmap
import struct
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.mutate import chunks_of, corpus, input_of
from tests.fuzz.targets import TARGETS


@dataclass(slots=True)
class Outcome:
    """How far it came; ``failure`` is the traceback of the input it ended at."""

    inputs: int = 0
    failure: str = ""
    failed_at: int = -1


class Journal:
    """The number of the input being played, in a file that another process can read at any moment."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(8))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8)

    def note(self, number: int) -> None:
        self._map[:8] = struct.pack("<Q", number)

    @staticmethod
    def read(path: Path) -> int:
        return int.from_bytes(path.read_bytes(), "little")


def play(
    target: str,
    seed: int,
    *,
    first: int = 0,
    count: int | None = None,
    seconds: float | None = None,
    journal: Journal | None = None,
) -> Outcome:
    """Play inputs from ``first``, which is rounded down to the beginning of its round, until one of the limits."""
    make, inputs_per_round = TARGETS[target]
    seeds = corpus(target)
    assert seeds, f"no corpus for {target}"
    outcome = Outcome()
    number = first // inputs_per_round * inputs_per_round
    last = None if count is None else first + count
    until = None if seconds is None else time.monotonic() + seconds

    def over() -> bool:
        return (last is not None and number >= last) or (
            until is not None and time.monotonic() >= until
        )

    while not over():
        try:
            one = make()
            for _ in range(inputs_per_round):
                if over():
                    break
                if journal is not None:
                    journal.note(number)
                data = input_of(target, seeds, seed, number)
                one.run(chunks_of(target, data, seed, number))
                number += 1
                outcome.inputs += 1
            one.close()
        except Exception:  # noqa: BLE001 - whatever it is, it is what was looked for
            outcome.failure = traceback.format_exc()
            outcome.failed_at = number
            return outcome
    return outcome
