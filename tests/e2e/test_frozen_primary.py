"""A primary that stands still while its volume moves on answers with errors when it wakes, never with what it knows."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, NodeProc
from tests.support.iscsi_client import Completion, IscsiClient
from tests.support.ledger import Ledger
from tests.support.minted import failovers, minted
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import PATH_SENSE, cluster_paths
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]

FROZEN_S = 10.0
OLD = b"\x01" * 4096
NEW = b"\x02" * 4096
FOREIGN = b"\x03" * 4096


@pytest.fixture
def cluster(place: Path):
    with Cluster(place) as made:
        made.create_volume("a", size=64 << 20)
        made.wait_healthy("a")
        yield made


def test_the_first_answers_after_a_freeze_are_errors(cluster: Cluster) -> None:
    """Goal: no stale read, no write that will be lost. Method: commands wait in the frozen process's socket while
    another primary writes other content; SIGCONT lets it see commands, clock and the newer line in any order."""
    primary = cluster.primary("a")
    host, port = primary.portal
    target = cluster_paths(cluster, "a").target
    with IscsiClient(host, port, target, timeout_s=30) as client:
        client.read_capacity()
        client.write(0, OLD)
        assert client.read(0, 1) == OLD
        primary.freeze()
        frozen_at = time.monotonic()
        early = submit_pair(client)
        write_elsewhere(cluster, primary)
        time.sleep(max(0.0, frozen_at + FROZEN_S - time.monotonic()))
        late = submit_pair(client)
        primary.thaw()
        answers = collect(client, {*early, *late})
        assert [answer.tag for answer in answers if answer.error is None] == []
        assert {answer.kind for answer in answers} == {"read", "write"}, "both are answered"
        for answer in answers:
            assert answer.error is not None
            sense = answer.error.key, answer.error.asc, answer.error.ascq
            assert sense in PATH_SENSE, "an error that sends the initiator to another path"
        # And it stays that way on that connection, if it stands.
        if not client.closed:
            again = submit_pair(client)
            assert [answer.error for answer in collect(client, set(again))].count(None) == 0
    cluster.wait_healthy("a")
    with cluster_paths(cluster, "a").connect() as client:
        assert client.read(0, 1) == NEW, "the frozen primary's write never happened"
        assert client.read(1, 1) == NEW
    assert cluster.verify("a") == []
    closed = [*primary.log_events("fence.fired"), *primary.log_events("gate.closed")]
    assert closed, "the log says why"


@pytest.mark.parametrize("silence_s", [2.0, 30.0], ids=["impatient", "patient"])
def test_no_acknowledgement_of_a_frozen_primary_is_worth_less(
    cluster: Cluster, silence_s: float
) -> None:
    """Impatient clients go on elsewhere; patient ones hold their sessions until it wakes, commands in every state."""
    ledger = Ledger(2)
    paths = cluster_paths(cluster, "a")
    with Traffic(ledger, paths, pages=4096, silence_s=silence_s) as traffic:
        traffic.wait_acked(50)
        primary = cluster.primary("a")
        frozen_at = time.monotonic()
        primary.freeze()
        cluster.wait_serving("a", not_on=primary)
        time.sleep(max(0.0, frozen_at + FROZEN_S - time.monotonic()))
        primary.thaw()
        traffic.wait_moved_on(frozen_at)
        traffic.wait_acked(50)
        cluster.wait_healthy("a")
        traffic.rest()
        check_all(ledger, paths)
        assert ledger.faults == []
    assert len(failovers(minted(cluster, "a"))) == 1, "who woke up took nothing back"
    assert cluster.verify("a") == []


def submit_pair(client: IscsiClient) -> dict[int, str]:
    """A read and a write, sent but not waited for."""
    return {client.submit_read(0, 1): "read", client.submit_write(1, FOREIGN): "write"}


def write_elsewhere(cluster: Cluster, frozen: NodeProc) -> None:
    """Wait for the new primary, write other content there."""
    cluster.wait_serving("a", not_on=frozen)
    paths = cluster_paths(cluster, "a")
    others = tuple(portal for portal in paths.portals if portal != frozen.portal)
    with type(paths)(portals=others, target=paths.target).connect() as client:
        client.write(0, NEW)
        client.write(1, NEW)


def collect(client: IscsiClient, tags: set[int]) -> list[Completion]:
    """The completions of these commands, or of those answered before the session ended."""
    found: list[Completion] = []
    deadline = time.monotonic() + 30.0
    while {completion.tag for completion in found} < tags and time.monotonic() < deadline:
        try:
            found += client.poll(1.0)
        except ConnectionError:
            break
    return found
