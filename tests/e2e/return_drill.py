"""How replicas come back, in figures: bytes that are shipped, copied twice, and what clients feel of it.

    python -m tests.e2e.return_drill --away 60

Five parts, each on a cluster of its own: a replica that was away under load comes back from the log; one that is past
the log gets what changed; a wiped one gets everything, while either end is killed at ten points; clients write beside
a copy; a copy with the machine to itself. Ends with one line on standard output and with 1 when a bound was missed.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sparrow.authority.types import PeerProgress
from sparrow.rpc.messages import VolumeView
from tests.support.cluster import Cluster, NodeProc
from tests.support.iscsi_client import IscsiClient
from tests.support.leave import end_on_sigterm
from tests.support.ledger import PAGE_BYTES, Ledger
from tests.support.multipath import check_all
from tests.support.paths import Paths, cluster_paths
from tests.support.rates import disk_rate, loopback_rate
from tests.support.traffic import percentile

VOLUME: Final = "drill"
MIB: Final = 1 << 20
WAIT_S: Final = 120.0
RUN_PAGES: Final = 16


# ---------------------------------------------------------------- clients


def write_run(
    client: IscsiClient, ledger: Ledger, pages: Iterator[int], *, depth: int = 8, pace: float = 0.0
) -> int:
    """Write runs of 16 pages at these places, one after the other; bytes that were acknowledged.

    ``pace``: bytes per second at most, 0 for as many as there come.
    """
    flying: dict[int, int] = {}
    written = 0
    began = time.monotonic()
    for page in pages:
        version, data = ledger.begin_write(page, RUN_PAGES)
        flying[client.submit_write(page, data)] = version
        written += len(data)
        while len(flying) >= depth:
            _take(client, ledger, flying)
        ahead_s = written / pace - (time.monotonic() - began) if pace else 0.0
        if ahead_s > 0:
            time.sleep(ahead_s)
    while flying:
        _take(client, ledger, flying)
    return written


def _take(client: IscsiClient, ledger: Ledger, flying: dict[int, int]) -> None:
    done = client.poll(30.0)
    assert done, "no answer"
    for completion in done:
        assert completion.error is None, completion.error
        ledger.acknowledge(flying.pop(completion.tag))


def over(first: int, pages: int, total_bytes: int) -> Iterator[int]:
    """Places of runs from one page on, round and round, until so many bytes."""
    for n in range(total_bytes // (RUN_PAGES * PAGE_BYTES)):
        yield first + n * RUN_PAGES % pages


class Foreground:
    """Small random writes, a few in flight, and how long each took."""

    def __init__(
        self, ledger: Ledger, paths: Paths, *, pages: int, depth: int = 4, seed: int = 7
    ) -> None:
        self.took_ms: list[float] = []
        self._ledger, self._paths, self._pages, self._depth = ledger, paths, pages, depth
        self._chance = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error: BaseException | None = None

    def __enter__(self) -> Foreground:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stop.set()
        self._thread.join(WAIT_S)
        if self._error is not None:
            raise AssertionError(f"a client failed: {self._error!r}")

    def during(self, seconds: float) -> list[float]:
        """What the writes of the next seconds take, milliseconds."""
        before = len(self.took_ms)
        time.sleep(seconds)
        return self.took_ms[before:]

    def _run(self) -> None:
        try:
            with self._paths.connect(timeout_s=30.0) as client:
                self._write(client)
        except BaseException as error:  # noqa: BLE001 - told at the end
            self._error = error

    def _write(self, client: IscsiClient) -> None:
        flying: dict[int, tuple[int, float, int]] = {}
        while not self._stop.is_set() or flying:
            while len(flying) < self._depth and not self._stop.is_set():
                page = self._chance.randrange(self._pages)
                if page in {at for _version, _began, at in flying.values()}:
                    continue
                version, data = self._ledger.begin_write(page, 1)
                flying[client.submit_write(page, data)] = (version, time.monotonic(), page)
            for completion in client.poll(30.0):
                assert completion.error is None, completion.error
                version, began, _page = flying.pop(completion.tag)
                self._ledger.acknowledge(version)
                self.took_ms.append((completion.at_s - began) * 1000)


# ---------------------------------------------------------------- what the cluster says


def primary_says(cluster: Cluster, node: NodeProc) -> PeerProgress | None:
    """What the primary tells of the replica on a node."""
    volume = cluster.volume(VOLUME)
    return next((r.progress for r in volume.replicas if r.node_id == node.node_id), None)


def a_follower(cluster: Cluster) -> NodeProc:
    primary = cluster.primary(VOLUME)
    return next(node for node in cluster.nodes.values() if node is not primary)


def left_out(cluster: Cluster, node: NodeProc) -> None:
    """Wait until the line does without a node."""

    def without(volume: VolumeView) -> bool:
        line = volume.line
        return line is not None and all(
            member.node_id != node.node_id or member.replica_id not in line.in_sync
            for member in line.members
        )

    cluster.wait_volume(VOLUME, without, WAIT_S)


def wiped(cluster: Cluster, node: NodeProc) -> None:
    """Kill a node and take away what it had; the line does without it then."""
    node.kill()
    shutil.rmtree(node.pool)
    node.pool.mkdir()
    left_out(cluster, node)


def settled(cluster: Cluster, node: NodeProc) -> PeerProgress:
    """Wait until all is well and the primary has told its last word of the replica on a node."""
    cluster.wait_healthy(VOLUME, WAIT_S)
    deadline = time.monotonic() + WAIT_S
    last: PeerProgress | None = None
    while True:
        said = primary_says(cluster, node)
        if said is not None and not said.kind and said == last:
            return said
        assert time.monotonic() < deadline, f"{said} never came to rest{cluster.logs()}"
        last = said
        # Longer than a heartbeat: the same word twice is the last one.
        time.sleep(0.7)


@contextmanager
def volume(path: Path, size: int, *, arguments: tuple[str, ...] = ()) -> Iterator[Cluster]:
    with Cluster(path, node_arguments=arguments) as cluster:
        cluster.create_volume(VOLUME, size=size, replicas=3)
        cluster.wait_healthy(VOLUME)
        yield cluster


def well(cluster: Cluster, ledger: Ledger) -> None:
    """All replicas are equal, and every acknowledged write is there."""
    assert cluster.verify(VOLUME) == []
    check_all(ledger, cluster_paths(cluster, VOLUME))
    assert ledger.faults == []


# ---------------------------------------------------------------- the parts


def away_and_back(path: Path, *, away_s: float) -> float:
    """Bytes shipped to a replica that was away, over bytes written meanwhile."""
    ledger = Ledger(1)
    size = 2048 * MIB if away_s > 10 else 256 * MIB
    with volume(path, size) as cluster:
        paths = cluster_paths(cluster, VOLUME)
        node = a_follower(cluster)
        with paths.connect() as client:
            write_run(client, ledger, over(0, 4096, 4 * MIB))
            before = settled(cluster, node)
            node.kill()
            written = write_run(client, ledger, over(0, 4096, 2 * MIB))
            left_out(cluster, node)
            written += write_run(client, ledger, over(0, 4096, round(MIB * away_s)), pace=MIB)
        node.start()
        after = settled(cluster, node)
        assert node.log_events("rebuild.started") == []
        well(cluster, ledger)
        assert after.base_bytes == before.base_bytes
        return (after.log_bytes - before.log_bytes) / written


def past_the_log(path: Path) -> float:
    """Bytes copied to a replica the log cannot bring back, over bytes of the granules that changed."""
    ledger = Ledger(2)
    changed = 16 * MIB
    with volume(path, 256 * MIB) as cluster:
        paths = cluster_paths(cluster, VOLUME)
        node = a_follower(cluster)
        with paths.connect() as client:
            write_run(client, ledger, over(0, 128 * MIB // PAGE_BYTES, 128 * MIB))
            before = settled(cluster, node)
            node.kill()
            left_out(cluster, node)
            pages = changed // PAGE_BYTES
            write_run(client, ledger, over(pages, pages, 4 * changed))
        node.start()
        after = settled(cluster, node)
        kinds = [event["kind"] for event in node.log_events("rebuild.started")]
        assert set(kinds) <= {"delta", "resumed"}, kinds
        assert "delta" in kinds, kinds
        well(cluster, ledger)
        return (after.base_bytes - before.base_bytes) / changed


@dataclass(slots=True, kw_only=True)
class Resumed:
    """A copy that was broken off again and again."""

    kills: int
    #: Of what there was to copy, copied more than once, per interruption, percent.
    again_percent: float


def killed_on_the_way(path: Path, *, kills: int, data: int = 192 * MIB) -> Resumed:
    """Wipe a replica, and kill it or its primary at points spread over the copy."""
    ledger = Ledger(3)
    size = 256 * MIB
    # Slow enough that there are points to kill at.
    with volume(path, size, arguments=("--rebuild-rate-mib", "4")) as cluster:
        paths = cluster_paths(cluster, VOLUME)
        node = a_follower(cluster)
        with paths.connect() as client:
            write_run(client, ledger, over(0, data // PAGE_BYTES, data))
        settled(cluster, node)
        wiped(cluster, node)
        node.start()
        sent = counted = 0
        for number in range(1, kills + 1):
            primary = cluster.primary(VOLUME)
            _wait_copied(cluster, node, data * number // (kills + 1))
            if number % 2:
                node.kill()
                total = _counted(cluster, node)
                sent, counted = sent + total - counted, total
                node.start()
            else:
                ended = len(node.log_events("peer.lost"))
                primary.kill()
                sent, counted = sent + _installed(node, ended), 0
                primary.start()
                cluster.wait_serving(VOLUME, WAIT_S)
        after = settled(cluster, node)
        sent += after.base_bytes - counted
        kinds = [event["kind"] for event in node.log_events("rebuild.started")]
        assert kinds[0] == "full", kinds
        assert set(kinds[1:]) == {"resumed"}, kinds
        well(cluster, ledger)
        # A head of one page goes with every 64.
        once = data + data // 64
        return Resumed(kills=kills, again_percent=100 * max(0, sent - once) / once / kills)


def _wait_copied(cluster: Cluster, node: NodeProc, count: int) -> None:
    """Until the newest copy has so much of the volume behind it."""
    deadline = time.monotonic() + WAIT_S
    while True:
        said = primary_says(cluster, node)
        begun = node.log_events("rebuild.started")
        if said is not None and said.kind in {"full", "resumed"} and begun:
            at = begun[-1]["cursor_page"] + said.done
            if at * PAGE_BYTES >= count:
                return
        assert time.monotonic() < deadline, f"{said}{cluster.logs()}"
        time.sleep(0.02)


def _counted(cluster: Cluster, node: NodeProc) -> int:
    """Base bytes the primary sent to a replica that is gone: its word when it says the same twice."""
    deadline = time.monotonic() + WAIT_S
    last: PeerProgress | None = None
    while True:
        said = primary_says(cluster, node)
        if said is not None and not said.kind and said == last:
            return said.base_bytes
        assert time.monotonic() < deadline, f"{said}{cluster.logs()}"
        last = said
        time.sleep(0.7)


def _installed(node: NodeProc, ended: int) -> int:
    """What a replica had installed over the link to a primary that was killed."""
    deadline = time.monotonic() + WAIT_S
    while True:
        events = [e for e in node.log_events("peer.lost")[ended:] if "base_bytes" in e]
        if events:
            return int(events[0]["base_bytes"])
        assert time.monotonic() < deadline, node.tail()
        time.sleep(0.02)


@dataclass(slots=True, kw_only=True)
class Felt:
    """What clients feel of a copy."""

    alone_ms: float
    beside_ms: float
    rate_mib: float

    @property
    def ratio(self) -> float:
        return self.beside_ms / self.alone_ms


def beside_clients(path: Path, *, seconds: float, data: int = 256 * MIB) -> Felt:
    """The 99th percentile of small writes while a replica is away, and while it is copied."""
    ledger = Ledger(4)
    with volume(path, 512 * MIB) as cluster:
        paths = cluster_paths(cluster, VOLUME)
        node = a_follower(cluster)
        with paths.connect() as client:
            write_run(client, ledger, over(0, data // PAGE_BYTES, data))
        settled(cluster, node)
        wiped(cluster, node)
        with Foreground(ledger, paths, pages=data // PAGE_BYTES) as clients:
            clients.during(2.0)
            alone = clients.during(seconds)
            node.start()
            _wait_copied(cluster, node, 1)
            first, began = primary_says(cluster, node), time.monotonic()
            beside: list[float] = []
            while time.monotonic() < began + seconds:
                beside += clients.during(0.5)
                said = primary_says(cluster, node)
                if said is None or not said.kind:
                    break
            last, ended = primary_says(cluster, node), time.monotonic()
        assert first is not None
        assert last is not None
        well_or_rebuilding(cluster, ledger)
        return Felt(
            alone_ms=percentile(alone, 0.99),
            beside_ms=percentile(beside, 0.99),
            rate_mib=(last.base_bytes - first.base_bytes) / MIB / max(0.1, ended - began),
        )


def well_or_rebuilding(cluster: Cluster, ledger: Ledger) -> None:
    """The rest of the copy has the machine to itself; then all must be well."""
    cluster.wait_healthy(VOLUME, WAIT_S)
    well(cluster, ledger)


@dataclass(slots=True, kw_only=True)
class Alone:
    """A copy with nobody beside it, MiB per second, and what this machine could do."""

    rate_mib: float
    disk_mib: float
    loopback_mib: float

    @property
    def share(self) -> float:
        return self.rate_mib / min(self.disk_mib, self.loopback_mib)


def with_the_machine_to_itself(path: Path, *, data: int = 2048 * MIB) -> Alone:
    ledger = Ledger(5)
    with volume(path, data) as cluster:
        paths = cluster_paths(cluster, VOLUME)
        node = a_follower(cluster)
        with paths.connect() as client:
            write_run(client, ledger, over(0, data // PAGE_BYTES, data))
        settled(cluster, node)
        wiped(cluster, node)
        disk = disk_rate(node.pool, data)
        loopback = loopback_rate(data)
        node.start()
        _wait_copied(cluster, node, 1)
        first, began = primary_says(cluster, node), time.monotonic()
        assert first is not None
        while (said := primary_says(cluster, node)) is not None and said.kind:
            last, ended = said, time.monotonic()
        rate = (last.base_bytes - first.base_bytes) / MIB / (ended - began)
        well_or_rebuilding(cluster, ledger)
        return Alone(rate_mib=rate, disk_mib=disk, loopback_mib=loopback)


# ---------------------------------------------------------------- the program


@dataclass(slots=True)
class Report:
    figures: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)

    def add(self, text: str, *, good: bool) -> None:
        self.figures.append(text)
        print(f"{text}{'' if good else '  MISSED'}", file=sys.stderr)
        if not good:
            self.missed.append(text)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--away", type=float, default=60.0, help="seconds a replica is away")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each latency measurement")
    parser.add_argument("--only", default="", help="names of parts, comma separated")
    chosen = parser.parse_args()
    end_on_sigterm()
    place = Path(tempfile.mkdtemp(prefix="sparrow-return-", dir="/var/tmp"))
    report = Report()

    def catch_up(path: Path) -> None:
        ratio = away_and_back(path, away_s=chosen.away)
        report.add(f"catch_up_ratio: {ratio:.3f}", good=ratio <= 1.1)

    def delta(path: Path) -> None:
        ratio = past_the_log(path)
        report.add(f"delta_ratio: {ratio:.3f}", good=ratio <= 1.1)

    def kills(path: Path) -> None:
        found = killed_on_the_way(path, kills=chosen.kills)
        report.add(
            f"kills: {found.kills} again_percent: {found.again_percent:.2f}",
            good=found.again_percent <= 1.0,
        )

    def felt(path: Path) -> None:
        found = beside_clients(path, seconds=chosen.seconds)
        report.add(
            f"p99_ms: {found.alone_ms:.1f} beside_ms: {found.beside_ms:.1f} ratio: {found.ratio:.2f} "
            f"rate_mib: {found.rate_mib:.0f}",
            good=found.ratio <= 1.5,
        )

    def alone(path: Path) -> None:
        found = with_the_machine_to_itself(path)
        report.add(
            f"alone_mib: {found.rate_mib:.0f} disk_mib: {found.disk_mib:.0f} "
            f"loopback_mib: {found.loopback_mib:.0f} share: {found.share:.2f}",
            good=found.share >= 0.7,
        )

    parts: dict[str, Callable[[Path], None]] = {
        "catch_up": catch_up,
        "delta": delta,
        "kills": kills,
        "felt": felt,
        "alone": alone,
    }
    wanted = chosen.only.split(",") if chosen.only else list(parts)
    try:
        for name in wanted:
            path = place / name
            path.mkdir()
            parts[name](path)
            shutil.rmtree(path)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    print(f"return: {' '.join(report.figures)} missed: {len(report.missed)}")
    return 1 if report.missed else 0


if __name__ == "__main__":
    sys.exit(main())
