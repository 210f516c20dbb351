"""Flip bits in every file of three replicas, and hold every byte that a client reads against what it wrote.

    python -m tests.e2e.bitflips --count 1000

In turns: bits are flipped under running nodes, and in the files of a node that was killed; everything that was ever
written is read by a client; every replica is scrubbed once. No byte may be wrong, no read may fail, nothing may be left
damaged. Only one replica of each page, block of checksums and batch is hit in a turn, so there is always a good copy.

Ends with one line on standard output: ``flips: 1000 wrong_bytes: 0 repaired: .. unused: .. unrepaired: 0 ..``.
``repaired`` counts the flips whose page, block, batch or copy is whole again, or was let go by the log; ``unused``
those that hit a hole or free space. Exits with 1 when a byte was wrong, a read failed or something is left damaged.
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

from tests.support.bitflips import Flipper
from tests.support.cluster import Cluster, ClusterError
from tests.support.iscsi_client import ScsiError
from tests.support.leave import end_on_sigterm
from tests.support.ledger import Ledger
from tests.support.multipath import READ_PAGES, Multipath
from tests.support.paths import cluster_paths
from tests.support.replica_files import ReplicaFiles, wait_applied

VOLUME = "rot"
VOLUME_BYTES = 64 << 20
PAGES = VOLUME_BYTES // 4096
#: Of the volume's pages, how many in a hundred are written.
FILLED = 60
RUN_PAGES = 16
PER_TURN = 100
SCRUB_S = 180.0
#: What is in memory would hide what is wrong on the disk.
NODE_ARGUMENTS = ("--scrub-mib-per-s", "1000", "--read-cache-mib", "0")


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the turns found."""

    flips: int = 0
    wrong_pages: int = 0
    failed_reads: int = 0
    unused: int = 0
    unrepaired: int = 0
    scrubbed: int = 0
    turns: int = 0
    files: dict[str, str] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.wrong_pages or self.failed_reads or self.unrepaired or self.trouble)

    def line(self) -> str:
        repaired = self.flips - self.unused - self.unrepaired
        files = " ".join(f"{name}: {text}" for name, text in self.files.items())
        return (
            f"flips: {self.flips} wrong_bytes: {self.wrong_pages * 4096} repaired: {repaired} unused: {self.unused} "
            f"unrepaired: {self.unrepaired} failed_reads: {self.failed_reads} scrubs: {self.scrubbed} {files}"
        )


def fill(cluster: Cluster, ledger: Ledger) -> dict[int, int]:
    """Write some runs of pages and wait until every replica has them in its extents; the version of each page."""
    written: dict[int, int] = {}
    choice = random.Random(ledger.seed)
    with Multipath(cluster_paths(cluster, VOLUME)) as client:
        for start in range(0, PAGES, RUN_PAGES):
            if choice.random() * 100 < FILLED:
                version, data = ledger.begin_write(start, RUN_PAGES)
                client.write(start, data)
                ledger.acknowledge(version)
                written.update(dict.fromkeys(range(start, start + RUN_PAGES), version))
    wait_applied([node.pool for node in cluster.nodes.values()], VOLUME)
    return written


def read_all(cluster: Cluster, ledger: Ledger, outcome: Outcome) -> None:
    with Multipath(cluster_paths(cluster, VOLUME), silence_s=20.0) as client:
        for page, pages in ledger.extents(READ_PAGES):
            basis = ledger.begin_read(page, pages)
            try:
                data = client.read(page, pages)
            except ScsiError as error:
                outcome.failed_reads += 1
                outcome.trouble.append(f"pages {page} to {page + pages - 1}: {error}")
                continue
            outcome.wrong_pages += len(ledger.check(basis, data, at_rest=True))


def scrub_all(cluster: Cluster, outcome: Outcome) -> None:
    """One scrub of every replica, from its beginning to its end."""
    before = {
        one.replica_id: one.finished_at
        for one in cluster.api(lambda api: api.scrub_volume(VOLUME, start=True)).replicas
    }
    deadline = time.monotonic() + SCRUB_S
    while True:
        report = cluster.api(lambda api: api.scrub_volume(VOLUME, start=False))
        done = [
            r for r in report.replicas if not r.running and r.finished_at > before[r.replica_id]
        ]
        if len(done) == len(cluster.nodes):
            break
        if time.monotonic() > deadline:
            raise ClusterError(f"the scrubs did not end: {report}{cluster.logs()}")
        time.sleep(0.1)
    outcome.scrubbed += len(done)
    for one in done:
        if one.unrepairable or one.different:
            outcome.trouble.append(f"{one.replica_id}: {one}")


def turn(cluster: Cluster, flipper: Flipper, ledger: Ledger, outcome: Outcome, count: int) -> None:
    """Even turns hit running nodes, odd ones a node that is down, another one each time."""
    names = tuple(sorted(cluster.nodes))
    flipper.new_round()
    if outcome.turns % 2 == 0:
        flipper.flip(names, count)
    else:
        victim = names[outcome.turns // 2 % len(names)]
        cluster.nodes[victim].kill()
        flipper.flip((victim,), count)
        cluster.nodes[victim].start()
        cluster.wait_healthy(VOLUME)
    read_all(cluster, ledger, outcome)
    scrub_all(cluster, outcome)
    read_all(cluster, ledger, outcome)
    outcome.turns += 1


def flip_bits(
    place: Path, count: int, *, seed: int, report: Callable[[str], None] = lambda _text: None
) -> Outcome:
    """All turns on one cluster in an empty directory."""
    outcome = Outcome()
    ledger = Ledger(seed)
    with Cluster(place, node_arguments=NODE_ARGUMENTS) as cluster:
        cluster.create_volume(VOLUME, size=VOLUME_BYTES)
        cluster.wait_healthy(VOLUME)
        written = fill(cluster, ledger)
        files = {name: ReplicaFiles(node.pool, VOLUME) for name, node in cluster.nodes.items()}
        flipper = Flipper(
            files,
            frozenset(written),
            lambda page: ledger.content(page, written[page]),
            seed,
        )
        while outcome.flips < count and not outcome.trouble:
            share = min(PER_TURN, count - outcome.flips, max(count // 2, 1))
            turn(cluster, flipper, ledger, outcome, share)
            outcome.flips = len(flipper.flips)
            outcome.unused = sum(flipper.unused().values())
            left = flipper.unrepaired()
            outcome.unrepaired = len(left)
            outcome.trouble += [f"left damaged: {flip}" for flip in left]
            report(f"turn {outcome.turns}: {outcome.line()}")
        if cluster.verify(VOLUME):
            outcome.trouble.append("replicas differ")
        for node in cluster.nodes.values():
            outcome.trouble += [f"{node.name}: {e}" for e in node.log_events("replica.condemned")]
        hits, unused = flipper.hits(), flipper.unused()
        outcome.files = {name: f"{hits[name]}/{unused[name]} unused" for name in sorted(hits)}
    outcome.trouble += [
        f"{fault.kind}: page {fault.page}: {fault.detail}" for fault in ledger.faults
    ]
    return outcome


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bitflips", description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="of places and content")
    arguments = parser.parse_args()
    end_on_sigterm()
    seed = (
        arguments.seed if arguments.seed is not None else random.SystemRandom().randrange(1 << 32)
    )
    place = Path(tempfile.mkdtemp(prefix="sparrow-bitflips-"))

    def report(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    report(f"seed {seed}, in {place}")
    outcome = flip_bits(place, arguments.count, seed=seed, report=report)
    for text in outcome.trouble:
        report(text)
    if outcome.good:
        shutil.rmtree(place)
    print(outcome.line())
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
