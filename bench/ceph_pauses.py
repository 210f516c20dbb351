"""``make bench-ceph-pauses``: how long a client of Ceph's block device waits when an OSD is killed, or stopped.

    python -m bench.ceph_pauses --kills 3 --stops 1

Every placement group has a replica on each of the three OSDs, so every write needs the one that is struck. One client
writes single pages at depth 1; the pause is the longest that one of its writes took. After each strike the OSD comes
back and all groups are clean again. By Ceph's defaults an OSD whose port refuses connections is reported at once, one
that is silent after 20 s.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

from bench.ceph_cluster import OSDS, CephCluster, CephFailed, Daemon, ceph_cluster
from bench.client.fio import run_fio_job
from bench.client.run import Load, LoadFailed
from bench.cpus import DATA, cpus, placement
from bench.servers import ServerFailed
from bench.table import say
from tests.support.leave import end_on_sigterm

SPAN: Final = 64 << 20
LOAD: Final = Load(write=True, sequential=False, block=4096, depth=1, span=SPAN)
#: Into the load, so that it is under way.
STRIKE_S: Final = 3.0
#: Of load; longer than the pause that is to be seen, or the run says so.
KILLED_S: Final = 15.0
STOPPED_S: Final = 50.0


def pause_of(cluster: CephCluster, strike: Callable[[], None], *, seconds: float) -> float:
    """Seconds that the slowest write took.

    Raises:
        LoadFailed: fio failed, or the pause did not end within the load.
    """
    timer = threading.Timer(STRIKE_S, strike)
    timer.start()
    try:
        found = run_fio_job(
            cluster.fio_engine,
            LOAD,
            cpu=placement().client,
            bound=("--time_based", f"--runtime={round(seconds * 1000)}ms"),
            environment=cluster.environment,
            longest_s=seconds + 120,
        )
    finally:
        timer.cancel()
        timer.join()
    pause_s = found.longest_us / 1e6
    if pause_s > seconds - STRIKE_S - 1:
        raise LoadFailed(f"a write of {pause_s:.1f} s ended with the load, not with the pause")
    return pause_s


def killed(cluster: CephCluster, osd: Daemon) -> float:
    pause_s = pause_of(cluster, osd.kill, seconds=KILLED_S)
    osd.start_again()
    return pause_s


def stopped(cluster: CephCluster, osd: Daemon) -> float:
    pause_s = pause_of(cluster, lambda: osd.process.send_signal(signal.SIGSTOP), seconds=STOPPED_S)
    osd.process.send_signal(signal.SIGCONT)
    return pause_s


def strike_all(
    cluster: CephCluster, fault: Callable[[CephCluster, Daemon], float], count: int
) -> list[float]:
    """One OSD after the other; the next when the last one is back."""
    found: list[float] = []
    for n in range(count):
        osd = cluster.osds[n % OSDS]
        found.append(fault(cluster, osd))
        say(f"{osd.name} {fault.__name__}: {found[-1]:.2f} s")
        cluster.wait_up()
        cluster.wait_clean()
    return found


def figures(name: str, pauses: list[float]) -> str:
    if not pauses:
        return ""
    return f" {name}: {len(pauses)} p50_s: {median(pauses):.2f} max_s: {max(pauses):.2f}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.ceph_pauses", description=__doc__)
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--stops", type=int, default=1)
    options = parser.parse_args()
    if len(cpus()) < 2:
        print(
            "make bench-ceph-pauses needs two processors: servers on one, the client on the other."
        )
        return 1
    end_on_sigterm()
    try:
        with (
            tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=DATA) as name,
            ceph_cluster(Path(name) / "ceph", size_bytes=SPAN) as cluster,
        ):
            kills = strike_all(cluster, killed, options.kills)
            stops = strike_all(cluster, stopped, options.stops)
    except (CephFailed, ServerFailed, LoadFailed) as error:
        print(f"bench-ceph-pauses: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench-ceph-pauses: stopped; its processes and files are gone", file=sys.stderr)
        return 130
    print(f"ceph pauses:{figures('killed', kills)}{figures('stopped', stops)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
