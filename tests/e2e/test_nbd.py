"""NBD on real processes: what a client is told when its replica serves no more, and that nothing stale is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, NodeProc
from tests.support.nbd_bed import ESHUTDOWN, FLUSH, READ, WRITE, NbdClient
from tests.support.needs import needs_io_uring

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

OLD = b"\x01" * 4096
NEW = b"\x02" * 4096
FROZEN_S = 6.0


@pytest.fixture
def cluster(place: Path) -> Iterator[Cluster]:
    with Cluster(place) as made:
        made.create_volume("a", size=64 << 20)
        made.wait_healthy("a")
        yield made


def client_of(node: NodeProc) -> NbdClient:
    return NbdClient(node.nbd_addr, "a")


def errors_until_closed(client: NbdClient, cookies: list[int]) -> list[int]:
    """Errors of requests under way; -1 for one that got no answer before the connection ended."""
    found = []
    for cookie in cookies:
        try:
            found.append(client.reply(cookie).error)
        except ConnectionError:
            found.append(-1)
    return found


def test_a_standby_refuses_and_names_the_primary(cluster: Cluster) -> None:
    primary = cluster.primary("a")
    for node in cluster.nodes.values():
        if node is not primary:
            with pytest.raises(ConnectionError, match=f"primary is on node {primary.node_id}"):
                client_of(node)


def test_what_was_written_before_the_primary_died_is_on_its_successor(cluster: Cluster) -> None:
    primary = cluster.primary("a")
    with client_of(primary) as client:
        for page in range(64):
            client.good(WRITE, page * 4096 + 512, data=bytes([page]) * 2048)
        primary.kill()
        assert client.closed()
    successor = cluster.wait_serving("a", not_on=primary)
    with client_of(successor) as client:
        for page in range(64):
            read = client.good(READ, page * 4096, 4096).data
            assert read == bytes(512) + bytes([page]) * 2048 + bytes(1536)


def test_a_planned_move_ends_every_connection_and_nothing_it_said_was_wrong(
    cluster: Cluster,
) -> None:
    """Clients write without a pause; what was answered with success is on the new primary, the last answers are
    NBD_ESHUTDOWN or none, and a client that was silent is told by the end of its connection."""
    primary = cluster.primary("a")
    goal = next(node for node in cluster.nodes.values() if node is not primary)
    with client_of(primary) as client, client_of(primary) as idle:
        idle.good(FLUSH)
        acked = 0
        mover = threading.Thread(target=cluster.move, args=("a", goal.node_id))
        errors: list[int] = []
        deadline = time.monotonic() + 60
        while not errors:
            assert time.monotonic() < deadline
            try:
                cookies = [client.start(WRITE, i * 4096, data=NEW) for i in range(8)]
            except ConnectionError:
                break
            answers = errors_until_closed(client, cookies)
            acked += answers.count(0)
            errors = [error for error in answers if error]
            if acked >= 200 and not mover.ident:
                mover.start()
        if not mover.ident:
            # It was handed over before: the machine stood still.
            mover.start()
        mover.join()
        assert set(errors) <= {ESHUTDOWN, -1}
        assert client.closed()
        assert idle.closed()
    successor = cluster.wait_serving("a", not_on=primary)
    assert successor is goal
    with client_of(successor) as client:
        assert client.good(READ, 0, 8 * 4096).data == NEW * 8


def test_a_frozen_primary_answers_nothing_stale_when_it_wakes(cluster: Cluster) -> None:
    """Requests wait in the frozen process's socket while another primary writes other content."""
    primary = cluster.primary("a")
    with client_of(primary) as client:
        client.good(WRITE, 0, data=OLD)
        assert client.good(READ, 0, 4096).data == OLD
        primary.freeze()
        frozen_at = time.monotonic()
        waiting = [client.start(READ, 0, 4096), client.start(WRITE, 4096, data=OLD)]
        successor = cluster.wait_serving("a", not_on=primary)
        with client_of(successor) as other:
            other.good(WRITE, 0, data=NEW * 2)
        # Frozen beyond every grant and hold, whenever the other took over.
        time.sleep(max(0.0, frozen_at + FROZEN_S - time.monotonic()))
        primary.thaw()
        assert set(errors_until_closed(client, waiting)) <= {ESHUTDOWN, -1}
        assert client.closed()
    cluster.wait_healthy("a")
    with client_of(cluster.primary("a")) as client:
        assert client.good(READ, 0, 2 * 4096).data == NEW * 2
    assert cluster.verify("a") == []
