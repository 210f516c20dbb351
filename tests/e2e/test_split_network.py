"""The network is split between machines: clients on both sides of the cut write, and one side at most is answered."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from tests.support.cluster import Cluster, NodeProc
from tests.support.iscsi_client import IscsiClient, ScsiError
from tests.support.namespaces import NAMESPACES, Network
from tests.support.needs import needs_io_uring, needs_program, needs_root
from tests.support.paths import cluster_paths

pytestmark = [
    needs_io_uring(),
    needs_root(),
    needs_program("nft"),
    needs_program("ip"),
    pytest.mark.timeout(180),
]

NODES = ("n1", "n2", "n3")
SIZE = 32 << 20
PAGE = 4096
CLONE_NEWNET = 0x40000000
#: Tries of the client that was left with the old primary.
TRIES = 5

T = TypeVar("T")


@pytest.fixture
def network() -> Iterator[Network]:
    with Network(NODES) as made:
        yield made


@pytest.fixture
def cluster(place: Path, network: Network) -> Iterator[Cluster]:
    with Cluster(place, network=network) as made:
        made.create_volume("a", size=SIZE)
        made.wait_healthy("a")
        yield made


def beside(network: Network, node: str, work: Callable[[], T]) -> T:
    """Do something on the node's own machine: sockets belong to the name space of the thread that makes them."""
    found: list[T] = []
    failed: list[BaseException] = []

    def run() -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        fd = os.open(NAMESPACES / network.name(node), os.O_RDONLY)
        try:
            assert libc.setns(fd, CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
            found.append(work())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            failed.append(error)
        finally:
            os.close(fd)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]
    return found[0]


def log_in_beside(network: Network, node: NodeProc, target: str) -> IscsiClient:
    def log_in() -> IscsiClient:
        client = IscsiClient(*node.portal, target, timeout_s=20.0)
        client.read_capacity()
        return client

    return beside(network, node.node_id, log_in)


def test_d7_a_primary_that_is_cut_off_answers_nobody_once_its_successor_serves(
    cluster: Cluster, network: Network
) -> None:
    """A client on the old primary's machine still reaches it. What it reads and writes there are errors."""
    old, paths = cluster.primary("a"), cluster_paths(cluster, "a")
    with log_in_beside(network, old, paths.target) as inside:
        inside.write(0, b"1" * PAGE)
        assert inside.read(0, 1) == b"1" * PAGE
        network.cut(old.node_id)
        cluster.wait_serving("a", not_on=old)
        with paths.connect() as outside:
            outside.write(0, b"2" * PAGE)
            for number in range(TRIES):
                answered = try_to_use(inside, old, network, paths.target, number)
                assert not answered, "two primaries answered"
            assert outside.read(0, 1) == b"2" * PAGE
    network.mend(old.node_id)
    cluster.wait_healthy("a")
    with cluster_paths(cluster, "a").connect() as client:
        assert client.read(0, 1) == b"2" * PAGE
        for number in range(TRIES):
            assert client.read(1 + number, 1) == bytes(PAGE), "an error was no acknowledgement"
    assert cluster.verify("a") == []


def try_to_use(
    inside: IscsiClient, old: NodeProc, network: Network, target: str, number: int
) -> bool:
    """One read and one write at the old primary, over the old session or a new one; whether either was answered."""
    if inside.closed:
        try:
            client = log_in_beside(network, old, target)
        except (ScsiError, OSError):
            return False
    else:
        client = inside
    answered = False
    for work in (
        lambda: client.read(0, 1),
        lambda: client.write(1 + number, b"3" * PAGE),
    ):
        try:
            work()
        except (ScsiError, OSError):
            continue
        answered = True
    return answered


def test_l5_a_primary_that_reaches_only_the_master_hands_over(
    cluster: Cluster, network: Network
) -> None:
    """It hears neither of its peers and they not it; all of them hear the master. Shrinking both out stops writes."""
    old = cluster.primary("a")
    others = [name for name in NODES if name != old.node_id]
    with cluster_paths(cluster, "a").connect() as client:
        client.write(0, b"1" * PAGE)
    network.keep_apart(old.node_id, others)
    heir = cluster.wait_serving("a", not_on=old)
    moved = cluster.master.wait_log("line.minted", volume="a", intent="reassign")
    assert heir.node_id in others
    assert moved["epoch"] == 2
    with cluster_paths(cluster, "a").connect() as client:
        assert client.read(0, 1) == b"1" * PAGE
        client.write(0, b"2" * PAGE)
    network.mend(old.node_id)
    cluster.wait_healthy("a")
    assert cluster.verify("a") == []
