"""A host without the cluster key: it is refused, both sides say so, and the volume does not notice."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sparrow.base.errors import Unproven
from sparrow.base.ids import NodeId, ReplicaId
from sparrow.formats.hello import Hello, LinkKind
from sparrow.node.links import TcpLinks
from sparrow.runtime.cluster_key import create_key_file
from tests.support.cluster import LOOK_S, Cluster, NodeProc
from tests.support.keys import KeyRing
from tests.support.ledger import Ledger
from tests.support.multipath import check_all
from tests.support.needs import needs_io_uring
from tests.support.paths import cluster_paths
from tests.support.traffic import Traffic

pytestmark = [needs_io_uring(), pytest.mark.timeout(180)]


@pytest.fixture
def cluster(place: Path):
    with Cluster(place) as made:
        made.create_volume("a", size=64 << 20)
        made.wait_healthy("a")
        yield made


def troubles(cluster: Cluster) -> dict[str, str]:
    return {
        node.node_id: " ".join(node.troubles) for node in cluster.api(lambda api: api.list_nodes())
    }


def wait_troubles(cluster: Cluster, names: Callable[[], set[str]], words: str = "") -> None:
    """Wait until exactly these nodes complain, in these words."""
    deadline = time.monotonic() + 60
    while True:
        told = {name: text for name, text in troubles(cluster).items() if text}
        if set(told) == names() and all(words in text for text in told.values()):
            return
        assert time.monotonic() < deadline, f"{told}{cluster.logs()}"
        time.sleep(LOOK_S)


def cluster_id_of(node: NodeProc) -> str:
    found = re.search(rb'"cluster_id":\s*"([0-9a-f]{32})"', (node.pool / "node.json").read_bytes())
    assert found is not None
    return found[1].decode()


def follower_of(cluster: Cluster) -> NodeProc:
    primary = cluster.primary("a")
    return next(node for node in cluster.nodes.values() if node is not primary)


def test_a_foreign_host_cannot_feed_a_replica(cluster: Cluster) -> None:
    """It knows all names, the uuid and the term, and connects as the primary would."""
    volume = cluster.volume("a")
    assert volume.line is not None
    line, follower = volume.line, follower_of(cluster)
    member = next(one for one in line.members if one.node_id == follower.node_id)
    term = cluster.primary("a").wait_log("gate.opened", volume="a")
    hello = Hello(
        kind=LinkKind.SHIP,
        cluster_id=cluster_id_of(follower),
        from_node=line.primary_member.node_id,
        to_node=NodeId(follower.node_id),
        volume_id=line.volume_id,
        from_replica=line.primary,
        to_replica=ReplicaId(member.replica_id),
        uuid=member.uuid,
        term_epoch=line.lineage.epoch,
        term_start=term["start"],
    )
    primary = cluster.primary("a")
    lost = primary.log_events("peer.lost", volume="a")
    stranger = TcpLinks(KeyRing(b"not the cluster's"))
    with pytest.raises(Unproven):
        asyncio.run(stranger.connect(follower.data_addr, hello, timeout_s=30))
    refused = follower.wait_log("link.refused", cause="unknown_key")
    assert refused["peer"] == line.primary_member.node_id
    assert primary.log_events("peer.lost", volume="a") == lost, "the real link stands"
    cluster.wait_healthy("a")


def test_a_node_with_another_key_is_left_out_and_both_sides_say_so(cluster: Cluster) -> None:
    ledger = Ledger(7)
    paths = cluster_paths(cluster, "a")
    odd = follower_of(cluster)
    with Traffic(ledger, paths, pages=1024) as traffic:
        traffic.wait_acked(50)
        good = cluster.cluster_key.read_text()
        own = cluster.path / "own.key"
        create_key_file(own)
        odd.kill()
        lost = len(odd.log_events("master.lost"))
        arguments = odd.arguments
        odd.arguments = tuple(
            str(own) if one == str(cluster.cluster_key) else one for one in arguments
        )
        odd.start()
        wait_troubles(cluster, lambda: {cluster.primary("a").node_id}, "same cluster key file")
        assert odd.wait_log("link.refused", cause="unknown_key")["hint"]
        # The master does not listen to it either, and both say why.
        assert "cluster key" in odd.wait_log("master.lost", after=lost)["cause"]
        assert cluster.master.wait_log("call.unproven", cause="unknown_key")["hint"]
        acked = ledger.acked_writes
        traffic.wait_acked(50)
        assert ledger.acked_writes > acked, "the others go on"
        # The right file, in place of the wrong one: no restart is needed.
        new = own.with_suffix(".new")
        new.touch(0o600)
        new.write_text(good)
        new.rename(own)
        cluster.wait_healthy("a")
        wait_troubles(cluster, set)
        traffic.rest()
        check_all(ledger, paths)
    assert ledger.faults == []
    assert cluster.verify("a") == []
