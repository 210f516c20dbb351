"""Strike the primary again and again under load, and hold every answer against what was acknowledged.

    python -m tests.e2e.failover_drill --count 20 --faults kill
    python -m tests.e2e.failover_drill --count 200 --faults all      needs root, ip, nft and loop devices

Each turn: clients write and read; something happens to the primary's node (``tests/support/faults.py``); the clients
find the new primary by themselves; every page that was ever written is read back while the fault stands; the fault is
taken back and the node must be in sync again under load, without help; all replicas must be equal, page by page.

    kill     the process gets SIGKILL
    freeze   the process gets SIGSTOP, and SIGCONT when the volume has moved
    deaf     nothing that is sent to the node arrives
    mute     nothing that the node sends arrives
    cut      both
    full     the process is killed, and started again in a pool without any room
    eio      every read, write and flush of the node's pool ends with EIO
    move     no fault: the operator's verb

Prints the pauses that clients saw, by kind, and ends with one line on standard output: ``failovers: 20 lost: 0 stale: 0
pause_ms_p50: .. p99: .. max: ..``. A pause goes from the last acknowledged write on the old path to the first on the
new one, logging in and the client's own time-out (SILENCE_S without any answer) included. Exits with 1 when a write was
lost, an answer was stale, a client that waits WAIT_S got an error, or a turn did not end in time.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sparrow.base.errors import FailedPrecondition
from sparrow.rpc.api_client import ApiClient
from tests.support.cluster import Cluster, ClusterError
from tests.support.faults import FAULTS, Ground
from tests.support.leave import end_on_sigterm
from tests.support.ledger import Ledger
from tests.support.multipath import Multipath, check_all
from tests.support.namespaces import Network
from tests.support.paths import PATH_SENSE, cluster_paths
from tests.support.places import Disk
from tests.support.traffic import Traffic, percentile

VOLUME: Final = "drill"
VOLUME_BYTES: Final = 256 << 20
USED_PAGES: Final = 8192
POOL_BYTES: Final = 512 << 20
NODES: Final = ("n1", "n2", "n3")
#: Writes of each client between two faults, at least.
ACKS: Final = 50
#: A client that waits so long gets no error.
WAIT_S: Final = 30.0
HEAL_S: Final = 120.0
#: A replica that stood still is fit to take over again when it has been heard and has what was written meanwhile.
TRUST_S: Final = 15.0
#: As short as an initiator may set it that looks after its paths (iscsid: noop_out_timeout and a small interval).
SILENCE_S: Final = 1.0
MOVE: Final = "move"
KINDS: Final = (*FAULTS, MOVE)


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What the drill found."""

    failovers: int = 0
    lost: int = 0
    stale: int = 0
    acked: int = 0
    pauses_s: dict[str, list[float]] = field(default_factory=dict)
    trouble: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.stale or self.trouble)

    def line(self) -> str:
        pauses = [pause for some in self.pauses_s.values() for pause in some]
        return f"failovers: {self.failovers} lost: {self.lost} stale: {self.stale} pause_ms_{_figures(pauses)}"

    def by_kind(self) -> Iterator[str]:
        """One line for each kind, in the order of the page above."""
        for kind in KINDS:
            pauses = self.pauses_s.get(kind, [])
            if pauses:
                yield f"{kind:7} n: {len(pauses):3} pause_ms_{_figures(pauses)}"


def _figures(pauses_s: Sequence[float]) -> str:
    ms = [pause * 1000 for pause in pauses_s]
    return f"p50: {percentile(ms, 0.5):.0f} p99: {percentile(ms, 0.99):.0f} max: {max(ms, default=0):.0f}"


def run(
    path: Path,
    *,
    count: int,
    kinds: Sequence[str] = ("kill",),
    seed: int = 1,
    tell: Callable[[str], None] | None = None,
) -> Outcome:
    """The drill, on a cluster of its own in an empty directory; ``tell`` gets one line per turn."""
    outcome = Outcome()
    ledger = Ledger(seed)
    chance = random.Random(seed)
    with _ground(path, kinds) as ground:
        cluster = ground.cluster
        cluster.create_volume(VOLUME, size=VOLUME_BYTES, replicas=3)
        cluster.wait_healthy(VOLUME)
        paths = cluster_paths(cluster, VOLUME)
        if "full" in kinds:
            _write_all(ledger, cluster)
        with Traffic(ledger, paths, pages=USED_PAGES, silence_s=SILENCE_S, seed=seed) as traffic:
            for number, kind in enumerate(_order(kinds, count, chance), 1):
                try:
                    told = turn(ground, traffic, outcome, chance, kind)
                except (AssertionError, OSError) as error:
                    outcome.trouble.append(f"turn {number}, {kind}: {error}")
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


@contextmanager
def _ground(path: Path, kinds: Sequence[str]) -> Iterator[Ground]:
    """A cluster with what the faults need, taken away again whatever happens."""
    faults = [FAULTS[kind] for kind in kinds if kind in FAULTS]
    with ExitStack() as stack:
        network = None
        if any(fault.needs_network for fault in faults):
            network = stack.enter_context(Network(NODES))
        disks: dict[str, Disk] = {}
        if any(fault.needs_disks for fault in faults):
            for node in NODES:
                disks[node] = Disk(path, f"disk-{node}", POOL_BYTES)
                stack.callback(disks[node].unmount)
        pools = {node: disk.path for node, disk in disks.items()}
        cluster = stack.enter_context(
            Cluster(path / "cluster", nodes=len(NODES), pools=pools, network=network)
        )
        yield Ground(cluster=cluster, network=network, disks=disks)


def _order(kinds: Sequence[str], count: int, chance: random.Random) -> list[str]:
    """As many of each kind as of any other, in a random order in every round."""
    order: list[str] = []
    while len(order) < count:
        one = list(kinds)
        chance.shuffle(one)
        order += one
    return order[:count]


def _write_all(ledger: Ledger, cluster: Cluster) -> None:
    """Give every page its place: a pool without room takes no new ones, and says so."""
    with Multipath(cluster_paths(cluster, VOLUME)) as client:
        client.write_runs(ledger, range(0, USED_PAGES, 64), run_pages=64)


def turn(
    ground: Ground, traffic: Traffic, outcome: Outcome, chance: random.Random, kind: str
) -> str:
    """One failover and the way back; one line that tells about it. Raises AssertionError."""
    cluster = ground.cluster
    traffic.wait_acked(ACKS)
    time.sleep(chance.uniform(0, 0.3))  # so that the fault does not fall together with an answer
    victim = cluster.primary(VOLUME)
    struck_at = time.monotonic()
    fault = FAULTS.get(kind)
    if fault is None:
        struck_at = cluster.api(_move)
    else:
        fault.strike(ground, victim)
    try:
        pause = traffic.wait_moved_on(struck_at, WAIT_S)
        outcome.failovers += 1
        outcome.pauses_s.setdefault(kind, []).append(pause)
        traffic.wait_acked(ACKS)
        traffic.rest()
        pages = check_all(traffic.ledger, traffic.paths)
        traffic.go_on()
        heir = cluster.primary(VOLUME)
    finally:
        returned_at = time.monotonic()
        if fault is not None:
            fault.mend(ground, victim)
    cluster.wait_healthy(VOLUME, HEAL_S)
    healed = time.monotonic() - returned_at
    traffic.rest()
    different = cluster.verify(VOLUME)
    traffic.go_on()
    if different:
        raise ClusterError(f"{len(different)} pages differ between replicas: {different[:10]}")
    errors = {sense: n for sense, n in traffic.refusals.items() if sense not in PATH_SENSE}
    if errors:
        raise ClusterError(f"clients got errors: {errors}")
    return (
        f"{kind} {victim.node_id} -> {heir.node_id}, pause {pause * 1000:.0f} ms, {pages} pages right, in sync after "
        f"{healed:.1f} s, {traffic.ledger.acked_writes} writes so far, refusals {dict(traffic.refusals)}"
    )


async def _move(api: ApiClient) -> float:
    """Let another in-sync replica serve the volume; when the move that was not refused was asked for.

    To a replica that stood still just now a move is refused, and says so.
    """
    until = time.monotonic() + TRUST_S
    refused = ""
    while True:
        line = (await api.get_volume(VOLUME)).line
        assert line is not None
        for to in (replica for replica in line.in_sync if replica != line.primary):
            asked_at = time.monotonic()
            try:
                async with aclosing(api.move_volume(VOLUME, to)) as progress:
                    last = [one async for one in progress][-1]
            except FailedPrecondition as why:
                refused = str(why)
                continue
            if last.line is None or last.line.primary != to:
                raise ClusterError(f"{to} was to be primary: {last.text}")
            return asked_at
        if time.monotonic() > until:
            raise ClusterError(f"nobody may take over after {TRUST_S:.0f} s: {refused}")
        await asyncio.sleep(0.2)


def kinds_of(text: str) -> tuple[str, ...]:
    """What ``--faults`` says. Raises ValueError."""
    if text == "all":
        return KINDS
    kinds = tuple(text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is none of all, {', '.join(KINDS)}")
    return kinds


def main() -> int:
    """Parse, run, print; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="failovers")
    parser.add_argument("--faults", type=kinds_of, default=("kill",), help="all, or KIND,KIND,...")
    parser.add_argument("--seed", type=int, default=1, help="of pages, lengths, kinds and moments")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"), help="where data goes")
    parser.add_argument("--keep", action="store_true", help="leave data and logs behind")
    chosen = parser.parse_args()
    end_on_sigterm()

    path = Path(tempfile.mkdtemp(prefix="sparrow-drill-", dir=chosen.dir))
    outcome = Outcome()
    try:
        outcome = run(
            path,
            count=chosen.count,
            kinds=chosen.faults,
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
    for figures in outcome.by_kind():
        print(figures)
    print(outcome.line())
    return 0 if outcome.good else 1


if __name__ == "__main__":
    raise SystemExit(main())
