"""``make bench-authority``: one master with 1,000 nodes and 100,000 volumes of three replicas, in one process.

    python -m bench.authority                          the whole of it, about two minutes
    python -m bench.authority --nodes 100 --volumes 10000

Everything of the master is real: the handler of heartbeats with its checks, inventory, authority loop, driver and
the SQLite store with ``synchronous=FULL``. Only sockets and nodes are left out: nodes are the bytes they send
(``bench.scale``), decoded as the server would decode them, and that cost is reported by itself.

Measured: heartbeats, whole and as deltas, with a share of volumes being written; then nodes die one after the other
while the others go on reporting, each from the end of its stream to the last of its volumes minted and durable.
"""

from __future__ import annotations

import argparse
import asyncio
import cProfile
import pstats
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import structlog
import uvloop

from bench.machine import describe_machine
from bench.scale import Cluster, Node
from sparrow.authority.loop import AuthorityLoop
from sparrow.base.constants import HEARTBEAT_S
from sparrow.master.control_service import ControlService
from sparrow.master.driver import Driver
from sparrow.master.inventory import Inventory
from sparrow.rpc import codec
from sparrow.rpc.messages import Heartbeat
from sparrow.rpc.server import SENDER_KEY, Call
from sparrow.runtime.clock import BoottimeClock
from sparrow.runtime.garbage import set_survivors_aside
from sparrow.store.sqlite import SqliteStore
from tests.support.leave import end_on_sigterm

#: Lines put into the store at once while it is filled.
FILL: Final = 5000
#: Between two deaths: longer than the pause between two failovers of one volume.
QUIET_S: Final = 2.0
#: How long a failover may take before the bench gives up.
PATIENCE_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Seconds spent on so many heartbeats: in the codec, and in the master after it."""

    count: int
    decode_s: float
    ingest_s: float

    @property
    def per_s(self) -> float:
        return self.count / self.ingest_s

    def __str__(self) -> str:
        return (
            f"{self.per_s:,.0f}/s, {self.ingest_s / self.count * 1e6:,.1f} us each; "
            f"decoding {self.decode_s / self.count * 1e6:,.1f} us each"
        )


class MasterClock:
    """The time of a machine that only the master runs on: what the bench spends on being 1,000 nodes does not pass."""

    def __init__(self) -> None:
        self._clock = BoottimeClock()
        self._nodes_s = 0.0

    def now(self) -> float:
        return self._clock.now() - self._nodes_s

    def make(self, message: Callable[[], bytes]) -> bytes:
        """Let a node make its message."""
        began = self._clock.now()
        made = message()
        self._nodes_s += self._clock.now() - began
        return made


class Bench:
    """One master on a store of its own, and the nodes it hears."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.clock = MasterClock()
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
        self.store = SqliteStore(folder)
        self._fill()
        generation = self.store.raise_generation()
        log = structlog.get_logger()
        self.authority = AuthorityLoop(
            self.store, master_generation=generation, now=self.clock.now()
        )
        self.driver = Driver(self.authority, self.store, self.clock, log)
        self.service = ControlService(
            self.driver,
            Inventory(),
            self.store,
            cluster_id=self.store.cluster_id,
            master_generation=generation,
            log=log,
        )
        self.streams: dict[str, int] = {}
        #: Nodes by when they last reported, oldest first.
        self.spoke: deque[tuple[float, Node]] = deque()

    def _fill(self) -> None:
        lines = self.cluster.lines()
        for start in range(0, len(lines), FILL):
            self.store.put_lines(lines[start : start + FILL])

    def boot(self) -> None:
        """Load every line, as a restarted master does; what that made is not looked through for garbage again."""
        self.driver.start(self.cluster.desired())
        set_survivors_aside()

    async def subscribe(self, node: Node) -> None:
        """A node opens its stream and takes its first burst."""
        stream_id, outbox = self.driver.open_stream(node.node_id, node.incarnation)
        self.streams[node.node_id] = stream_id
        await outbox.take()

    async def feed(self, message: bytes) -> Rate:
        """Decode and take one heartbeat."""
        began = time.perf_counter()
        heartbeat = codec.decode(Heartbeat, message)
        decoded = time.perf_counter()
        answer = await self.service.heartbeat(heartbeat, _call(heartbeat))
        done = time.perf_counter()
        assert not answer.send_full, "the bench's deltas have their base"
        return Rate(count=1, decode_s=decoded - began, ingest_s=done - decoded)

    async def kill(self, number: int) -> tuple[float, int]:
        """End a node's stream; seconds until every volume it was primary of has a new durable line, and how many."""
        node = self.cluster.nodes[number]
        lines = self.authority.publisher.lines
        mine = [one for one, line in lines.items() if line.primary_member.node_id == node.node_id]
        before = {one: lines[one].lineage.epoch for one in mine}
        self.cluster.kill(number)
        beats = asyncio.get_running_loop().create_task(self._others_beat())
        await asyncio.sleep(QUIET_S)
        began = time.perf_counter()
        self.driver.close_stream(node.node_id, self.streams[node.node_id])
        # A line is in the publisher only once it is in the store.
        moved = await self.driver.until(
            lambda: all(lines[one].lineage.epoch > before[one] for one in mine),
            timeout_s=PATIENCE_S,
        )
        took = time.perf_counter() - began
        beats.cancel()
        if not moved:
            raise SystemExit(f"{node.node_id}: not all volumes failed over in {PATIENCE_S:g} s")
        return took, len(mine)

    async def _others_beat(self) -> None:
        """All living nodes, twice a second, spread evenly."""
        while True:
            round_began = self.clock.now()
            living = [node for node in self.cluster.nodes if node.alive]
            for index, node in enumerate(living):
                due = round_began + HEARTBEAT_S * index / len(living)
                # Also when late: calls arrive one by one, and timers run between them.
                await asyncio.sleep(max(0.0, due - self.clock.now()))
                await self.feed(self.clock.make(partial(self.cluster.delta, node)))


class _Context:
    """What the handler asks of a gRPC call: who sent it."""

    def __init__(self, sender: str) -> None:
        self._metadata = ((SENDER_KEY, sender),)

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


def _call(heartbeat: Heartbeat) -> Call:
    return Call(context=_Context(heartbeat.node_id))


async def run(arguments: argparse.Namespace, folder: Path) -> None:
    cluster = Cluster(
        nodes=arguments.nodes, volumes=arguments.volumes, active_share=arguments.active
    )
    print(f"cluster: {cluster}", flush=True)
    began = time.perf_counter()
    bench = Bench(cluster, folder)
    filled = time.perf_counter()
    bench.boot()
    booted = time.perf_counter()
    print(
        f"store filled in {filled - began:.1f} s, master booted in {booted - filled:.1f} s",
        flush=True,
    )
    first = await measured(bench, 1, cluster.whole)
    print(f"first whole heartbeats: {first}", flush=True)
    print(f"all heard and subscribed in {time.perf_counter() - booted:.1f} s", flush=True)
    whole = await measured(bench, arguments.whole_rounds, cluster.whole)
    print(f"whole heartbeats, {cluster.slots_per_node:.0f} slots: {whole}", flush=True)
    idle = await measured(bench, arguments.rounds, lambda node: cluster.delta(node, active=False))
    print(f"deltas without changes: {idle}", flush=True)
    deltas = await measured(bench, arguments.rounds, cluster.delta)
    print(f"deltas, {arguments.active:.0%} of volumes written: {deltas}", flush=True)
    if arguments.profile:
        await profiled(bench, cluster.delta)
    moved = sum(line.lineage.epoch > 1 for line in bench.authority.publisher.lines.values())
    assert moved == 0, f"{moved} volumes failed over although every node was well"
    kills = []
    for number in range(arguments.kills):
        took, count = await bench.kill(number)
        kills.append(took)
        print(
            f"node {number} lost: {count} volumes failed over in {took * 1000:.0f} ms", flush=True
        )
    rss = int(next(_status("VmRSS"))) / 1024
    bench.driver.stop()
    bench.store.close()
    print(
        f"heartbeats_per_s: {deltas.per_s:.0f} "
        f"failover_100_ms: {statistics.median(kills) * 1000:.0f} rss_mib: {rss:.0f}"
    )


async def measured(bench: Bench, rounds: int, make: Callable[[Node], bytes]) -> Rate:
    """Rounds of one heartbeat of every node; making the bytes is not counted, and takes no time of the master's.

    A round of whole heartbeats takes longer than a fact counts, so nodes whose turn is over go on with small ones, as
    real ones do; these are not counted either.
    """
    rates = []
    for _ in range(rounds):
        for node in bench.cluster.nodes:
            while bench.spoke and bench.spoke[0][0] + HEARTBEAT_S < bench.clock.now():
                _, waiting = bench.spoke.popleft()
                small = bench.clock.make(partial(bench.cluster.delta, waiting, active=False))
                await bench.feed(small)
                bench.spoke.append((bench.clock.now(), waiting))
                await asyncio.sleep(0)  # timers run between calls, as in a server
            rates.append(await bench.feed(bench.clock.make(partial(make, node))))
            if node.node_id not in bench.streams:
                await bench.subscribe(node)
            if len(bench.spoke) < len(bench.cluster.nodes):
                bench.spoke.append((bench.clock.now(), node))
    return Rate(
        count=len(rates),
        decode_s=sum(rate.decode_s for rate in rates),
        ingest_s=sum(rate.ingest_s for rate in rates),
    )


async def profiled(bench: Bench, make: Callable[[Node], bytes]) -> None:
    messages = [make(node) for node in bench.cluster.nodes]
    profile = cProfile.Profile()
    profile.enable()
    for message in messages:
        await bench.feed(message)
    profile.disable()
    pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(40)


def _status(name: str) -> Iterator[str]:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            yield line.split()[1]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.authority", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--volumes", type=int, default=100_000)
    parser.add_argument("--active", type=float, default=0.02, help="share of volumes written to")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--whole-rounds", type=int, default=1)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--folder", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    end_on_sigterm()
    for name, text in describe_machine(arguments.folder).items():
        if name in {"cpu", "cpus", "memory", "kernel", "disk", "python", "sparrow", "load before"}:
            print(f"- {name}: {text}")
    with tempfile.TemporaryDirectory(dir=arguments.folder, prefix="sparrow-bench-") as folder:
        uvloop.run(run(arguments, Path(folder)))


if __name__ == "__main__":
    main()
