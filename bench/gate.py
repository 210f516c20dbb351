"""``make bench-gate``: how many instructions the core's parts take, against what they took when the base line was kept.

    python -m bench.gate            fails when one takes over a tenth more than its base line
    python -m bench.gate --keep     writes bench/baselines/instructions.json anew

Instructions are counted by callgrind in a run that has neither clock nor disk nor network of its own, so a busy machine
counts the same as a quiet one, to a few in a thousand. They are no time: what waits for memory or the kernel is not in
them. A compiler or a processor that makes other code needs a base line of its own; the file names the ones it is of.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench.client.run import LoadFailed, compile_c
from bench.gate_cases import CASES, INSIDE, WITHOUT
from bench.servers import ServerFailed, find_program

BASELINE: Final = Path(__file__).with_name("baselines") / "instructions.json"
COUNTING: Final = Path(__file__).parent / "client" / "counting.c"
ALLOWED: Final = 1.10
LONGEST_S: Final = 1200.0


class GateFailed(RuntimeError):
    """The counting itself did not work; the message says why."""


def count(folder: Path) -> dict[str, float]:
    """Instructions per unit of work, by case."""
    library = compile_c(COUNTING, folder, "-shared", "-fPIC")
    out = folder / "callgrind.out"
    done = subprocess.run(
        [
            *(find_program("valgrind"), "--tool=callgrind", "--instr-atstart=no"),
            f"--callgrind-out-file={out}",
            *(sys.executable, "-m", "bench.gate_cases", str(library)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST_S,
        # The same sets and dictionaries in every run.
        env={**os.environ, "PYTHONHASHSEED": "0"},
    )
    if done.returncode != 0:
        raise GateFailed(f"the cases failed in callgrind:\n{done.stderr[-4000:]}")
    found: dict[str, float] = {}
    for part in sorted(folder.glob("callgrind.out.*")):
        name = _case_of(part)
        if name in CASES:
            found[name] = _instructions(part, name) / CASES[name]
    if missing := CASES.keys() - found.keys():
        raise GateFailed(f"callgrind wrote nothing of: {', '.join(sorted(missing))}")
    return found


def compare(found: dict[str, float], kept: dict[str, float]) -> tuple[list[str], int]:
    """A line per case and how many grew beyond what is allowed."""
    lines, worse = [], 0
    for name, instructions in found.items():
        before = kept.get(name)
        ratio = instructions / before if before else float("inf")
        bad = ratio > ALLOWED
        worse += bad
        was = "not in the base line" if before is None else f"{before:,.1f}, x {ratio:.3f}"
        lines.append(
            f"{'WORSE ' if bad else 'ok    '}{name}: {instructions:,.1f} instructions ({was})"
        )
    return lines, worse


def _case_of(part: Path) -> str:
    with part.open() as file:
        for line in file:
            if line.startswith("desc: Trigger: Client Request: "):
                return line.removeprefix("desc: Trigger: Client Request: ").strip()
            if line.startswith("fn="):
                break
    return ""


def _instructions(part: Path, name: str) -> int:
    """All of the part, or what is below one function of it, without what some others take with all they call."""
    inside = INSIDE.get(name)
    done = subprocess.run(
        [
            find_program("callgrind_annotate"),
            "--inclusive=yes",
            "--threshold=100",
            "--auto=no",
            str(part),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    numbers = {
        "total" if "PROGRAM TOTALS" in line else line: int(line.split()[0].replace(",", ""))
        for line in done.stdout.splitlines()
        if re.match(r"\s*[\d,]+ \(", line)
    }
    if inside is None:
        return numbers["total"]

    def below(function: str) -> int:
        found = [n for line, n in numbers.items() if re.search(rf"_{function}( |$)", line)]
        if not found:
            raise GateFailed(f"{name}: no function {function} was seen: was it inlined?")
        return max(found)

    return below(inside) - sum(below(function) for function in WITHOUT.get(name, ()))


def compilers() -> str:
    said = subprocess.run(["gcc", "--version"], capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gate", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="keep these figures as the base line")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory(prefix="sparrow-gate-") as name:
            found = count(Path(name))
    except (GateFailed, LoadFailed, ServerFailed) as error:
        print(f"bench-gate: {error}", file=sys.stderr)
        return 2
    if options.keep:
        kept = {"compiler": compilers(), "instructions": {n: round(i, 1) for n, i in found.items()}}
        BASELINE.write_text(json.dumps(kept, indent=1) + "\n")
    base = json.loads(BASELINE.read_text())
    if base["compiler"] != compilers():
        print(f"note: the base line is of {base['compiler']}, this is {compilers()}")
    lines, worse = compare(found, base["instructions"])
    print("\n".join((*lines, f"cases: {len(lines)} worse: {worse}")))
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
