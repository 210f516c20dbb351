"""``make fuzz-living``: mutated sessions against a node that serves somebody else meanwhile.

    python -m tests.fuzz.living --sessions 10000
    python -m tests.fuzz.living --seed 7 --only 1234     # play one session again

One node, as it is started in production, with three volumes. Strangers open session after session on its portals, some
at once: past the door of each protocol, or from the first byte, with what ``tests/fuzz/mutate.py`` makes of good
conversations. Another client writes and reads a volume of its own all the time and checks every answer.

In the end that client must have had one session only and no wrong answer; the node must have as many descriptors as
before, must not have grown, and its core must have everything back when it stops. The last line is
``sessions: N failed: M``.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import socket
import struct
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sparrow.base.access import AccessEntry, AccessList, Frontend
from sparrow.base.ids import VolumeId
from sparrow.frontends.iscsi.naming import target_name
from sparrow.frontends.nvme.naming import subsystem_nqn
from tests.fuzz.mutate import chunks_of, corpus, input_of
from tests.fuzz.targets import _send
from tests.support.cluster import Cluster, NodeProc
from tests.support.iscsi_client import IscsiClient
from tests.support.ledger import Ledger
from tests.support.multipath import check_all
from tests.support.nbd_bed import NbdClient
from tests.support.nvme_host import OPENED, attach
from tests.support.paths import cluster_paths
from tests.support.traffic import Traffic

#: The names the corpus asks for, and the volume of the client that is to notice nothing.
DEMO, OF_NBD, KEPT = "demo", "vm1", "kept"
VOLUME_BYTES: Final = 64 << 20
#: Strangers at once.
AT_ONCE: Final = 4
#: After so many sessions the node has every buffer it will ever want; what it grows by from there on is a leak.
WARM_UP: Final = 0.2
GROWTH_MAX_KB: Final = 24 << 10
#: A cache that is full before the growth is counted.
SMALL_CACHE: Final = ("--read-cache-mib", "4")
QUIET_S: Final = 90.0


@dataclass
class Door:
    """A live node as strangers meet it."""

    node: NodeProc
    lock: threading.Lock = field(default_factory=threading.Lock)

    def plain(self, address: str) -> list[socket.socket]:
        host, _, port = address.rpartition(":")
        return [socket.create_connection((host, int(port)), timeout=10)]

    def iscsi_session(self) -> list[socket.socket]:
        host, port = self.node.portal
        client = IscsiClient(host, port, target_name(VolumeId(DEMO)), timeout_s=30)
        return [client._socket]

    def nbd_transmission(self) -> list[socket.socket]:
        return [NbdClient(self.node.nbd_addr, OF_NBD, timeout_s=30).socket]

    def nvme_queue(self) -> list[socket.socket]:
        host, _, port = self.node.nvme_addr.rpartition(":")
        # A host of its own: a newer controller of the same one would end it.
        who = f"nqn.2024-01.x:stranger-{threading.get_ident()}"
        admin, (queue,) = attach((host, int(port)), subsystem_nqn(VolumeId(DEMO)), hostnqn=who)
        with self.lock:
            for one in (admin.socket, queue.socket):
                OPENED.remove(one)
        return [queue.socket, admin.socket]

    @property
    def openers(self) -> dict[str, Callable[[], list[socket.socket]]]:
        """By target of the corpus: connects; the first socket is the one to talk on."""
        return {
            "iscsi_full_feature": self.iscsi_session,
            "iscsi_login": lambda: self.plain(self.node.iscsi_addr),
            "nbd_negotiation": lambda: self.plain(self.node.nbd_addr),
            "nbd_transmission": self.nbd_transmission,
            "nvme_conversation": lambda: self.plain(self.node.nvme_addr),
            "nvme_queue": self.nvme_queue,
        }


def play(door: Door, target: str, seeds: tuple[bytes, ...], seed: int, number: int) -> None:
    """One session of a stranger. Raises: OSError, AssertionError (the door did not open to a good beginning)."""
    data = input_of(target, seeds, seed, number)
    if target == "nbd_negotiation":
        # There the first byte chooses the machine's mode.
        data = data[1:]
    dice = random.Random(f"{seed}/{number}/end")
    sockets = door.openers[target]()
    talking = sockets[0]
    try:
        talking.setblocking(False)
        with contextlib.suppress(ConnectionError):
            for chunk in chunks_of(target, data, seed, number):
                _send(talking, chunk)
            if dice.random() < 0.3:
                # A stranger who waits for an answer, or for the end, but not for ever.
                talking.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    while talking.recv(1 << 16):
                        pass
    finally:
        if dice.random() < 0.3:
            # Its machine is gone: a reset, without a word.
            with contextlib.suppress(OSError):
                talking.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        for one in sockets:
            one.close()


class Strangers:
    """Sessions ``first`` to ``last``, some at once."""

    def __init__(
        self, door: Door, seed: int, numbers: range, *, on_thousand: Callable[[int], None]
    ) -> None:
        self.failures: list[str] = []
        self.played: Counter[str] = Counter()
        self._door = door
        self._seed = seed
        self._numbers = iter(numbers)
        self._lock = threading.Lock()
        self._on_thousand = on_thousand
        self._corpus = {name: corpus(name) for name in sorted(door.openers)}

    def run(self) -> None:
        threads = [threading.Thread(target=self._work, daemon=True) for _ in range(AT_ONCE)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        names = sorted(self._corpus)
        while True:
            with self._lock:
                number = next(self._numbers, None)
            if number is None or self.failures:
                return
            target = names[number % len(names)]
            try:
                play(self._door, target, self._corpus[target], self._seed, number)
            except Exception as error:  # noqa: BLE001 - whatever it is, a good beginning was refused
                self.failures.append(f"session {number} ({target}): {error!r}")
                return
            with self._lock:
                self.played[target] += 1
                if sum(self.played.values()) % 1000 == 0:
                    self._on_thousand(sum(self.played.values()))


def descriptors(node: NodeProc, master_addr: str) -> int:
    """Open ones, but for connections to the master: the second of them comes in its own time after a start."""
    _host, _, port = master_addr.rpartition(":")
    to_master = set()
    # gRPC connects to IPv4 through sockets of IPv6.
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{node.pid}/net/{table}").read_text().splitlines()[1:]:
            # proc(5): number, local and remote address in hexadecimal, ..., inode.
            fields = line.split()
            if int(fields[2].rpartition(":")[2], 16) == int(port):
                to_master.add(f"socket:[{fields[9]}]")
    count = 0
    for one in Path(f"/proc/{node.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            count += str(one.readlink()) not in to_master
    return count


def resident_kb(node: NodeProc) -> int:
    for line in Path(f"/proc/{node.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("the kernel tells no VmRSS")


def wait_descriptors(node: NodeProc, master_addr: str, count: int) -> int:
    """Until no more than so many are open, or for as long as the slowest end may take; how many there are."""
    deadline = time.monotonic() + QUIET_S
    while (found := descriptors(node, master_addr)) > count and time.monotonic() < deadline:
        # The kernel tells nobody when another process closes a descriptor.
        time.sleep(0.05)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description="mutated sessions against a node that serves")
    parser.add_argument("--sessions", type=int, default=10000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", type=int, default=None, help="play the one of this number alone")
    options = parser.parse_args()
    seed = int(time.time()) % 1_000_000 if options.seed is None else options.seed
    print(f"seed: {seed}", flush=True)
    numbers = range(options.sessions)
    if options.only is not None:
        numbers = range(options.only, options.only + 1)
    with tempfile.TemporaryDirectory(prefix="sparrow-living-", dir="/var/tmp") as place:
        problems, played = run_against(Path(place), seed, numbers)
    for problem in problems:
        print(problem)
    print(f"sessions: {played} failed: {len(problems)}")
    return 1 if problems else 0


def run_against(place: Path, seed: int, numbers: range) -> tuple[list[str], int]:
    """Play these sessions against a node below ``place``; what was wrong, and how many were played."""
    problems: list[str] = []
    with Cluster(place, nodes=1, node_arguments=SMALL_CACHE) as cluster:
        for name in (DEMO, OF_NBD, KEPT):
            cluster.create_volume(name, size=VOLUME_BYTES, replicas=1)
        (node,) = cluster.nodes.values()
        mine = AccessList(
            entries=(
                AccessEntry(protocol=Frontend.ISCSI, name="iqn.2026-01.io.sparrow.test:client"),
            ),
            allow_none=True,
        )
        cluster.api(lambda api: api.set_access(KEPT, mine))
        ledger = Ledger(seed)
        paths = cluster_paths(cluster, KEPT)
        door = Door(node)
        started = time.monotonic()
        with Traffic(ledger, paths, pages=4096, clients=1, depth=4, pause_s=0.002) as traffic:
            traffic.wait_acked(100)
            before = descriptors(node, cluster.master_addr)

            def tell(count: int) -> None:
                held = descriptors(node, cluster.master_addr)
                print(
                    f"{count} sessions, {time.monotonic() - started:.0f} s: {resident_kb(node)} kB resident, "
                    f"{held} descriptors, {traffic.clients[0].acked} writes of the other client",
                    flush=True,
                )

            warm = int(len(numbers) * WARM_UP)
            total = 0
            first_kb = 0
            for part in (numbers[:warm], numbers[warm:]):
                strangers = Strangers(door, seed, part, on_thousand=tell)
                strangers.run()
                total += sum(strangers.played.values())
                problems += strangers.failures
                if not node.running:
                    problems.append(f"the node ended{node.tail()}")
                    return problems, total
                after = wait_descriptors(node, cluster.master_addr, before)
                if after > before:
                    problems.append(f"{after - before} descriptors are left open")
                if part is not numbers[warm:] and first_kb == 0:
                    first_kb = resident_kb(node)
            traffic.wait_acked(100)
            last_kb = resident_kb(node)
            traffic.rest()
            (client,) = traffic.clients
            print(
                f"resident: {first_kb} kB after {warm} sessions, {last_kb} kB after {total}; "
                f"descriptors: {before} before, {after} after; the other client: {client.acked} writes, "
                f"{len(ledger.faults)} wrong, {client.sessions} session",
                flush=True,
            )
            if last_kb - first_kb > GROWTH_MAX_KB:
                problems.append(f"the node has grown by {last_kb - first_kb} kB")
            if client.sessions != 1:
                problems.append(f"the other client needed {client.sessions} sessions")
        check_all(ledger, paths)
        problems += [f"a wrong answer: {fault}" for fault in ledger.faults]
        if node.terminate() != 0:
            problems.append(f"the node did not end well{node.tail()}")
        problems += [f"the core did not put back: {one}" for one in node.log_events("core.leaked")]
    return problems, total


if __name__ == "__main__":
    sys.exit(main())
