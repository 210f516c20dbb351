"""Move a volume's primary on purpose, again and again under load, and time what clients notice.

    python -m tests.e2e.move_drill --count 20

Each turn: clients write and read; another in-sync replica is made primary by the operator's verb; the clients find it
by themselves; the old primary follows and is in sync again. At the end everything that was written is read back and
the replicas are compared page by page.

Ends with one line on standard output: ``moves: 20 lost: 0 stale: 0 pause_ms_p50: .. p99: .. max: ..``. The pause is
what the client sees: from the last acknowledged write on the old path to the first on the new one, logging in
included. Exits with 1 when a write was lost, an answer was stale or a turn did not end in time.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster import Cluster, ClusterError
from tests.support.leave import end_on_sigterm
from tests.support.ledger import Ledger
from tests.support.multipath import check_all
from tests.support.paths import cluster_paths
from tests.support.traffic import Traffic, percentile

VOLUME = "drill"
VOLUME_BYTES = 64 << 20
USED_PAGES = 4096
#: Writes of each client between two moves, at least.
ACKS = 50
MOVE_S = 30.0
HEAL_S = 60.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the drill found."""

    moves: int = 0
    lost: int = 0
    stale: int = 0
    acked: int = 0
    pauses_s: list[float] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.stale or self.trouble)

    def pause_ms(self, share: float) -> float:
        return percentile([pause * 1000 for pause in self.pauses_s], share)

    def line(self) -> str:
        return (
            f"moves: {self.moves} lost: {self.lost} stale: {self.stale} pause_ms_p50: {self.pause_ms(0.5):.0f} "
            f"p99: {self.pause_ms(0.99):.0f} max: {self.pause_ms(1.0):.0f}"
        )


def run(path: Path, *, count: int, tell: Callable[[str], None] | None = None) -> Outcome:
    """The drill, on a cluster of its own in an empty directory; ``tell`` gets one line per turn."""
    outcome = Outcome()
    ledger = Ledger(1)
    with Cluster(path) as cluster:
        cluster.create_volume(VOLUME, size=VOLUME_BYTES, replicas=3)
        cluster.wait_healthy(VOLUME)
        paths = cluster_paths(cluster, VOLUME)
        with Traffic(ledger, paths, pages=USED_PAGES, pause_s=0.002) as traffic:
            try:
                for number in range(1, count + 1):
                    told = turn(cluster, traffic, outcome)
                    if tell is not None:
                        tell(f"turn {number}: {told}")
                traffic.rest()
                different = cluster.verify(VOLUME)
                if different:
                    outcome.trouble.append(f"{len(different)} pages differ: {different[:10]}")
            except (AssertionError, OSError) as error:
                outcome.trouble.append(f"turn {outcome.moves + 1}: {error}")
        check_all(ledger, paths)
    outcome.lost, outcome.stale = ledger.count("lost"), ledger.count("stale")
    outcome.acked = ledger.acked_writes
    outcome.trouble += [f"{one.kind}: page {one.page}: {one.detail}" for one in ledger.faults[:20]]
    return outcome


def turn(cluster: Cluster, traffic: Traffic, outcome: Outcome) -> str:
    """One move and the way back into the in-sync set; one line that tells about it. Raises AssertionError."""
    line = cluster.wait_healthy(VOLUME, HEAL_S).line
    assert line is not None
    traffic.wait_acked(ACKS)
    to = next(replica for replica in line.in_sync if replica != line.primary)
    began_at = time.monotonic()
    last = cluster.move(VOLUME, to)
    told_s = time.monotonic() - began_at
    pause = traffic.wait_moved_on(began_at, MOVE_S)
    if last.line is None or last.line.primary != to:
        raise ClusterError(f"{to} was to be primary: {last.text}")
    outcome.moves += 1
    outcome.pauses_s.append(pause)
    return (
        f"{line.primary} -> {to}, pause {pause * 1000:.0f} ms, told of after {told_s * 1000:.0f} ms"
    )


def main() -> int:
    """Parse, run, print; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="moves")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where data goes")
    parser.add_argument("--keep", action="store_true", help="leave data and logs behind")
    chosen = parser.parse_args()
    end_on_sigterm()

    path = Path(tempfile.mkdtemp(prefix="sparrow-moves-", dir=chosen.dir))
    outcome = Outcome()
    try:
        outcome = run(path, count=chosen.count, tell=lambda text: print(text, file=sys.stderr))
    finally:
        if outcome.good and not chosen.keep:
            shutil.rmtree(path)
        else:
            print(f"data and logs are in {path}", file=sys.stderr)
    for trouble in outcome.trouble:
        print(trouble, file=sys.stderr)
    print(outcome.line())
    return 0 if outcome.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
