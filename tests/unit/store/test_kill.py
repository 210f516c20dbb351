"""kill -9 of a process that mints in a loop: what it said was minted is there, and nothing goes back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sparrow.authority.publisher import Publisher
from sparrow.base.ids import VolumeId
from sparrow.store.sqlite import SqliteStore

ROUNDS = 5
LINES_PER_ROUND = 30

MINTER = """
import sys
from sparrow.authority.publisher import Publisher
from sparrow.authority.results import Minted
from sparrow.store.sqlite import SqliteStore
from tests.support.authority import bind, reassign, shrink, grow, V

store = SqliteStore(sys.argv[1])
publisher = Publisher(store, store.raise_generation())
publisher.load()
if publisher.line(V) is None:
    publisher.apply(bind())
while True:
    line = publisher.line(V)
    other = "r2" if line.primary == "r1" else "r1"
    steps = [shrink(line, "r3")] if "r3" in line.in_sync else [grow(line, "r3")]
    if other in line.in_sync and line.lineage.endpoint_version > 3:
        steps = [reassign(line, other)]
    elif other not in line.in_sync:
        steps = [grow(line, other)]
    result = publisher.apply(steps[0])
    assert isinstance(result, Minted), result
    lineage = result.line.lineage
    print(lineage.epoch, lineage.endpoint_version, result.line.write_seq, flush=True)
"""


def test_killed_minter_never_takes_a_line_back(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    highest = (0, 0, 0)
    for _ in range(ROUNDS):
        minter = subprocess.Popen(
            [sys.executable, "-c", MINTER, str(tmp_path)],
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert minter.stdout is not None
        for _ in range(LINES_PER_ROUND):
            words = minter.stdout.readline().split()
            assert len(words) == 3, "the minter ended by itself"
            said = (int(words[0]), int(words[1]), int(words[2]))
            assert said > highest
            highest = said
        minter.kill()
        for rest in minter.stdout:
            if rest.endswith("\n") and len(rest.split()) == 3:
                highest = max(highest, tuple(int(word) for word in rest.split()))  # type: ignore[assignment]
        minter.wait()
        minter.stdout.close()
        store = SqliteStore(tmp_path)
        publisher = Publisher(store, store.raise_generation())
        loaded = publisher.load()
        store.close()
        assert loaded.skips == ()
        line = publisher.line(VolumeId("v1"))
        assert line is not None
        found = (line.lineage.epoch, line.lineage.endpoint_version, line.write_seq)
        assert found >= highest, "an acknowledged mint is gone"
        highest = found
