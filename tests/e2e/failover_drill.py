"""Kill the primary again and again under load, and hold every answer against what was acknowledged.

    python -m tests.e2e.failover_drill --count 20

Each turn: clients write and read; the primary's process gets SIGKILL; the clients find the new primary by
themselves; every page that was ever written is read back; the killed process is started again and must be in sync
again under load, without help; all replicas must be equal, page by page.

Ends with one line on standard output: ``failovers: 20 lost: 0 stale: 0 pause_ms_p50: .. p99: .. max: ..``. The pause is
what the client sees: from the last acknowledged write on the old path to the first on the new one. Exits with 1 when a
write was lost, an answer was stale or a turn did not end in time.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.cluster import Cluster, ClusterError
from tests.support.ledger import Ledger
from tests.support.traffic import Traffic, check_all, cluster_paths, percentile

VOLUME = "drill"
VOLUME_BYTES = 256 << 20
USED_PAGES = 8192
#: Writes of each client between two faults, at least.
ACKS = 50
MOVE_S = 60.0
HEAL_S = 120.0


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the drill found."""

    failovers: int = 0
    lost: int = 0
    stale: int = 0
    acked: int = 0
    pauses_s: list[float] = field(default_factory=list)
    trouble: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.stale or self.trouble)

    def line(self) -> str:
        ms = [pause * 1000 for pause in self.pauses_s]
        return (
            f"failovers: {self.failovers} lost: {self.lost} stale: {self.stale} "
            f"pause_ms_p50: {percentile(ms, 0.5):.0f} p99: {percentile(ms, 0.99):.0f} max: {max(ms, default=0):.0f}"
        )


def run(
    path: Path, *, count: int, seed: int = 1, tell: Callable[[str], None] | None = None
) -> Outcome:
    """The drill, on a cluster of its own in an empty directory; ``tell`` gets one line per turn."""
    outcome = Outcome()
    ledger = Ledger(seed)
    chance = random.Random(seed)
    with Cluster(path) as cluster:
        cluster.create_volume(VOLUME, size=VOLUME_BYTES, replicas=3)
        cluster.wait_healthy(VOLUME)
        paths = cluster_paths(cluster, VOLUME)
        with Traffic(ledger, paths, pages=USED_PAGES, seed=seed) as traffic:
            for number in range(1, count + 1):
                try:
                    told = turn(cluster, traffic, outcome, chance)
                except (AssertionError, OSError) as error:
                    outcome.trouble.append(f"turn {number}: {error}")
                    break
                finally:
                    outcome.lost, outcome.stale = ledger.count("lost"), ledger.count("stale")
                    outcome.acked = ledger.acked_writes
                if tell is not None:
                    tell(f"turn {number}: {told}")
                if not outcome.good:
                    break
    outcome.trouble += [
        f"{fault.kind}: page {fault.page}: {fault.detail}" for fault in ledger.faults[:20]
    ]
    return outcome


def turn(cluster: Cluster, traffic: Traffic, outcome: Outcome, chance: random.Random) -> str:
    """One failover and the way back; one line that tells about it. Raises AssertionError."""
    traffic.wait_acked(ACKS)
    time.sleep(chance.uniform(0, 0.3))  # so that the kill does not fall together with an answer
    victim = cluster.primary(VOLUME)
    killed_at = time.monotonic()
    victim.kill()
    pause = traffic.wait_moved_on(killed_at, MOVE_S)
    outcome.failovers += 1
    outcome.pauses_s.append(pause)
    traffic.wait_acked(ACKS)
    traffic.rest()
    pages = check_all(traffic.ledger, traffic.paths)
    traffic.go_on()
    heir = cluster.primary(VOLUME)
    returned_at = time.monotonic()
    victim.start()
    cluster.wait_healthy(VOLUME, HEAL_S)
    healed = time.monotonic() - returned_at
    traffic.rest()
    different = cluster.verify(VOLUME)
    traffic.go_on()
    if different:
        raise ClusterError(f"{len(different)} pages differ between replicas: {different[:10]}")
    return (
        f"{victim.node_id} -> {heir.node_id}, pause {pause * 1000:.0f} ms, {pages} pages right, in sync after "
        f"{healed:.1f} s, {traffic.ledger.acked_writes} writes so far, refusals {dict(traffic.refusals)}"
    )


def main() -> int:
    """Parse, run, print; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="failovers")
    parser.add_argument("--seed", type=int, default=1, help="of pages, lengths and moments")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where data goes")
    parser.add_argument("--keep", action="store_true", help="leave data and logs behind")
    chosen = parser.parse_args()

    path = Path(tempfile.mkdtemp(prefix="sparrow-drill-", dir=chosen.dir))
    outcome = Outcome()
    try:
        outcome = run(
            path,
            count=chosen.count,
            seed=chosen.seed,
            tell=lambda text: print(text, file=sys.stderr),
        )
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
