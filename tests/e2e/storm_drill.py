"""Kill and stop nodes of a cluster with many volumes: all of them fail over at once, and all must be whole again.

    python -m tests.e2e.storm_drill --volumes 200 --count 6

Each turn strikes one node, the next one in order: killed and started again, or stopped for longer than a grant. A
third of all volumes lose their primary in the same moment, and the others a follower. Nothing is written: what is
drilled is who may serve, and that a crowd of openings does not set replicas aside.

Ends with one line on standard output: ``turns: 6 volumes: 200 late: 0 set_aside: 0 differ: 0 whole_s_max: ..``. Exits
with 1 when a volume was not whole in time, a replica was set aside, or replicas differ.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from sparrow.base import events
from tests.support.cluster import Cluster, ClusterError, NodeProc
from tests.support.leave import end_on_sigterm
from tests.support.many import make_many, name_of

VOLUME_BYTES: Final = 16 << 20
#: From the strike: until a killed node is started again, and a stopped one goes on.
AWAY_S: Final = 3.0
STOPPED_S: Final = 5.0
#: From the strike until every volume must be whole.
WHOLE_S: Final = 90.0
#: Of so many volumes the replicas of one are compared.
COMPARED: Final = 10


def strike(node: NodeProc, *, kill: bool) -> None:
    """Kill the node and start it again, or stop it for a while."""
    if kill:
        node.kill()
        time.sleep(AWAY_S)  # how long it is away
        node.start()
    else:
        node.stop_cont(STOPPED_S)


def late_volumes(cluster: Cluster, count: int, began: float) -> list[str]:
    """Volumes that are not whole ``WHOLE_S`` after ``began``, each with what the cluster says of it."""
    late = []
    for number in range(count):
        try:
            cluster.wait_healthy(
                name_of(number), timeout_s=max(1.0, began + WHOLE_S - time.monotonic())
            )
        except ClusterError as error:
            late.append(f"{name_of(number)}: {error}")
    return late


def set_aside(cluster: Cluster) -> int:
    return sum(len(node.log_events(events.REPLICA_QUARANTINED)) for node in cluster.nodes.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.storm_drill", description=__doc__)
    parser.add_argument("--volumes", type=int, default=200)
    parser.add_argument("--count", type=int, default=6, help="turns")
    options = parser.parse_args()
    end_on_sigterm()
    late: list[str] = []
    whole_s: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="sparrow-storm-", dir="/var/tmp") as place,
        Cluster(Path(place), nodes=3) as cluster,
    ):
        make_many(cluster, options.volumes, size=VOLUME_BYTES)
        nodes = list(cluster.nodes.values())
        for turn in range(options.count):
            node, kill = nodes[turn % len(nodes)], turn // len(nodes) % 2 == 0
            began = time.monotonic()
            strike(node, kill=kill)
            late += (found := late_volumes(cluster, options.volumes, began))
            whole_s.append(time.monotonic() - began)
            how = "killed" if kill else "stopped"
            print(
                f"turn {turn}: {node.name} {how}: all whole after {whole_s[-1]:.1f} s", flush=True
            )
            for one in found:
                print(f"  {one}", flush=True)
        aside = set_aside(cluster)
        differ = [n for n in range(0, options.volumes, COMPARED) if cluster.verify(name_of(n))]
    print(
        f"turns: {options.count} volumes: {options.volumes} late: {len(late)} set_aside: {aside} "
        f"differ: {len(differ)} whole_s_max: {max(whole_s):.1f}"
    )
    return 1 if late or aside or differ else 0


if __name__ == "__main__":
    sys.exit(main())
