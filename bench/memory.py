"""``make bench-memory``: what a volume and a session cost in resident memory, and whether memory grows with I/O.

    python -m bench.memory --millions 10
    python -m bench.memory --millions 0      what volumes and sessions cost only

One node with volumes of one replica. Resident memory is read without volumes, with all of them, with an iSCSI session
on each, and of another node with as many NBD connections, when nothing is under way. Then one volume takes random reads
and durable writes of single pages by turns until so many millions are done; resident memory is printed after each.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.client.run import Load, build_client, run_client
from bench.cpus import DATA, on_server_cpu
from bench.growth import connected, make_volumes, one_on_each, resident_mib
from sparrow.runtime.config import split_address
from tests.support.cluster import Cluster, NodeProc
from tests.support.leave import end_on_sigterm

MIB: Final = 1 << 20
VOLUMES: Final = 50
SPAN: Final = 64 * MIB
MILLION: Final = 1_000_000
TURN_S: Final = 5.0
#: First checkpoints and grants are over then; no event tells so from outside.
SETTLE_S: Final = 3.0
#: From the first million to the last; what an allocator rounds up, not what an I/O leaves behind.
FLAT_MIB: Final = 8.0


@contextmanager
def one_node(folder: Path) -> Iterator[tuple[Cluster, NodeProc]]:
    folder.mkdir(parents=True)
    with on_server_cpu():
        cluster = Cluster(folder, nodes=1).start()
    try:
        (node,) = cluster.nodes.values()
        yield cluster, node
    finally:
        cluster.stop()


def nbd_target(node: NodeProc, name: str) -> tuple[str, ...]:
    host, port = split_address(node.nbd_addr)
    return ("--proto", "nbd", "--host", host, "--port", str(port), "--export", name)


def settled_mib(node: NodeProc) -> float:
    time.sleep(SETTLE_S)
    return resident_mib(node.pid)


def costs(program: Path, folder: Path) -> tuple[float, float, float, float]:
    """MiB of a node without volumes; KiB of each volume, iSCSI session and NBD connection."""
    with one_node(folder / "iscsi") as (cluster, node):
        empty = settled_mib(node)
        make_volumes(cluster, 0, VOLUMES, replicas=1)
        full = settled_mib(node)
        with connected(program, one_on_each([cluster.url(f"v{n}") for n in range(VOLUMES)])):
            iscsi = settled_mib(node)
    # A node of its own: what sessions give back stays with the process and would be used again.
    with one_node(folder / "nbd") as (cluster, node):
        make_volumes(cluster, 0, 1, replicas=1)
        before = settled_mib(node)
        with connected(program, (*nbd_target(node, "v0"), "--connections", str(VOLUMES))):
            nbd = settled_mib(node)
    return (
        empty,
        (full - empty) / VOLUMES * 1024,
        (iscsi - full) / VOLUMES * 1024,
        (nbd - before) / VOLUMES * 1024,
    )


def flat(program: Path, folder: Path, millions: int) -> list[float]:
    """Resident MiB after each million of requests."""
    found: list[float] = []
    with one_node(folder) as (cluster, node):
        cluster.create_volume("flat", size=SPAN, replicas=1)
        cluster.wait_healthy("flat")
        target = nbd_target(node, "flat")
        done = turn = 0
        while len(found) < millions:
            write = turn % 2 == 0
            load = Load(write=write, sequential=False, block=4096, depth=32, span=SPAN)
            done += run_client(program, target, load, seconds=TURN_S).ios_all
            turn += 1
            # A read or two more than a million makes no difference, a missing half of the mix would.
            while not write and len(found) < min(millions, done // MILLION):
                found.append(resident_mib(node.pid))
                print(f"{len(found):>4} million: {found[-1]:.1f} MiB resident", flush=True)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--millions", type=int, default=10, help="of requests")
    options = parser.parse_args()
    end_on_sigterm()
    figures: list[str] = []
    grown = 0.0
    with tempfile.TemporaryDirectory(prefix="sparrow-bench-", dir=DATA) as name:
        program = build_client(Path(name))
        empty, volume, iscsi, nbd = costs(program, Path(name) / "costs")
        figures.append(
            f"empty_mib: {empty:.0f} volume_kib: {volume:.0f} iscsi_kib: {iscsi:.0f} nbd_kib: {nbd:.0f}"
        )
        print(figures[-1], flush=True)
        if options.millions > 0:
            found = flat(program, Path(name) / "flat", options.millions)
            grown = found[-1] - found[0]
            figures.append(
                f"millions: {len(found)} rss_mib: {found[-1]:.1f} grown_mib: {grown:.1f}"
            )
    print(f"memory: {' '.join(figures)}")
    return 1 if grown > FLAT_MIB else 0


if __name__ == "__main__":
    sys.exit(main())
