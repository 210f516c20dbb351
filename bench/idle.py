"""``make bench-idle``: what a node costs that has 200 volumes and 64 sessions, and nobody asks it for anything.

    python -m bench.idle                     about three minutes
    python -m bench.idle --volumes 50 --threads

Three nodes on loopback, every volume with a replica on each, 64 sessions of initiators on each node. Then one node is
killed and started again, at rest and after a load that filled the logs: how long until it says that it is ready, and
until every volume is whole again. With ``--threads`` the processor time of each thread is told, which says who of a
node is at work.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.client.run import Load, build_client, run_client
from bench.cpus import DATA, cpu_seconds
from bench.growth import one_on_each, resident_mib, say
from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.naming import target_name
from tests.support.cluster import Cluster, NodeProc
from tests.support.iscsi_client import IscsiClient
from tests.support.leave import end_on_sigterm
from tests.support.many import make_many, name_of

MIB: Final = 1 << 20
VOLUME: Final = 16 * MIB
NODES: Final = 3
SESSIONS: Final = 64
#: What follows the making and is none of idling: checkpoints, first grants, heartbeats with news.
SETTLE_S: Final = 10.0
#: What follows 64 logins: a node looks at whom they concern for as long as measuring a peer's pace takes. Both together
#: are less than the 15 s after which a target asks an initiator whether it lives.
LOGINS_S: Final = 3.0
IDLE_S: Final = 10.0
#: Fills the log of every volume (16 MiB) as far as it is kept for replicas that come back.
FILL: Final = Load(write=True, sequential=False, block=128 << 10, depth=32, span=VOLUME)
FILL_S: Final = 12.0
GOAL_PERCENT: Final = 1.0
GOAL_START_S: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Idle:
    """Of the busiest node: percent of one processor, resident MiB; percent of the master."""

    node_percent: float
    master_percent: float
    rss_mib: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Seconds from the start of a process to its ready line, processor time of it, and to the last whole volume.

    ``read_mib`` is what it had read from the disk when it was ready.
    """

    ready_s: float
    ready_cpu_s: float
    read_mib: float
    whole_s: float


@contextmanager
def sessions(cluster: Cluster, volumes: int) -> Iterator[None]:
    """Initiators that are logged in and ask for nothing.

    They do not answer when the target asks, after 15 s, whether they live; what is measured is over by then.
    """
    with ExitStack() as stack:
        for node in cluster.nodes.values():
            for number in range(SESSIONS):
                name = target_name(VolumeId(name_of(number % volumes)))
                host, port = node.portal
                stack.enter_context(IscsiClient(host, port, name, timeout_s=30))
        yield


def threads_of(pid: int) -> dict[str, float]:
    """Seconds of processor time so far, by name and number of thread."""
    found = {}
    ticks = os.sysconf("SC_CLK_TCK")
    for task in Path(f"/proc/{pid}/task").iterdir():
        name, _, rest = (task / "stat").read_text().rpartition(")")
        fields = rest.split()
        found[f"{name.partition('(')[2]} {task.name}"] = (int(fields[11]) + int(fields[12])) / ticks
    return found


def measure(cluster: Cluster, *, threads: bool) -> Idle:
    pids = {name: node.pid for name, node in cluster.nodes.items()} | {"master": cluster.master.pid}
    before = {name: cpu_seconds((pid,)) for name, pid in pids.items()}
    threads_before = {name: threads_of(pid) for name, pid in pids.items()}
    time.sleep(IDLE_S)  # what is measured
    percent = {
        name: (cpu_seconds((pid,)) - before[name]) / IDLE_S * 100 for name, pid in pids.items()
    }
    if threads:
        for name, pid in pids.items():
            for thread, used in sorted(threads_of(pid).items()):
                spent = (used - threads_before[name].get(thread, 0.0)) / IDLE_S * 100
                if spent >= 0.05:
                    say(f"{name}: {thread}: {spent:.2f} %")
    master = percent.pop("master")
    say("; ".join(f"{name}: {used:.2f} % of a processor" for name, used in percent.items()))
    return Idle(
        node_percent=max(percent.values()),
        master_percent=master,
        rss_mib=max(resident_mib(node.pid) for node in cluster.nodes.values()),
    )


def start_again(cluster: Cluster, node: NodeProc, volumes: int) -> Start:
    node.kill()
    began = time.monotonic()
    node.start()
    ready_s = time.monotonic() - began
    ready_cpu_s, read_mib = cpu_seconds((node.pid,)), disk_read_mib(node.pid)
    for number in range(volumes):
        cluster.wait_healthy(name_of(number), timeout_s=120)
    return Start(
        ready_s=ready_s,
        ready_cpu_s=ready_cpu_s,
        read_mib=read_mib,
        whole_s=time.monotonic() - began,
    )


def disk_read_mib(pid: int) -> float:
    """What a process had read from disks so far, page cache aside."""
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    counts = dict(line.split(": ") for line in lines)
    return int(counts["read_bytes"]) / MIB


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.idle", description=__doc__)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--threads", action="store_true", help="tell who of a node is at work")
    options = parser.parse_args()
    end_on_sigterm()
    with (
        tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=DATA) as place,
        # Compiled modules are kept, as where it is installed.
        Cluster(Path(place), nodes=NODES, environment={"PYTHONDONTWRITEBYTECODE": ""}) as cluster,
    ):
        began = time.monotonic()
        make_many(cluster, options.volumes, size=VOLUME)
        say(f"{options.volumes} volumes of three replicas made in {time.monotonic() - began:.0f} s")
        time.sleep(SETTLE_S)  # no event tells that what the making left behind is done
        with sessions(cluster, options.volumes):
            time.sleep(LOGINS_S)  # nor this
            idle = measure(cluster, threads=options.threads)
        node = next(iter(cluster.nodes.values()))
        start = start_again(cluster, node, options.volumes)
        urls = [cluster.url(name_of(number)) for number in range(options.volumes)]
        program = build_client(Path(place))
        filled = run_client(program, one_on_each(urls), FILL, seconds=FILL_S)
        say(f"{filled.iops * FILL_S * FILL.block / MIB:,.0f} MiB written over all volumes")
        loaded = start_again(cluster, node, options.volumes)
    say(
        f"volumes: {options.volumes} sessions_per_node: {SESSIONS} node_cpu_percent: {idle.node_percent:.2f} "
        f"(goal {GOAL_PERCENT}) master_cpu_percent: {idle.master_percent:.2f} rss_mib: {idle.rss_mib:.0f} "
        f"start_s: {start.ready_s:.2f} (goal {GOAL_START_S}) start_cpu_s: {start.ready_cpu_s:.2f} "
        f"start_read_mib: {start.read_mib:.0f} whole_s: {start.whole_s:.2f} "
        f"loaded_start_s: {loaded.ready_s:.2f} (goal {GOAL_START_S}) loaded_start_cpu_s: {loaded.ready_cpu_s:.2f} "
        f"loaded_start_read_mib: {loaded.read_mib:.0f} loaded_whole_s: {loaded.whole_s:.2f}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
