"""Replicas on nodes that fail together: none, while other zones have room."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.cluster import Cluster
from tests.support.needs import needs_io_uring

pytestmark = [needs_io_uring(), pytest.mark.timeout(300)]

ZONES = {"n1": "rack1", "n2": "rack1", "n3": "rack2", "n4": "rack3"}


def test_each_replica_goes_to_a_rack_of_its_own_and_why_says_so(place: Path) -> None:
    cluster = Cluster(place, nodes=len(ZONES))
    for name, zone in ZONES.items():
        cluster.nodes[name].arguments += ("--zone", zone)
    with cluster:
        assert {one.node_id: one.zone for one in cluster.api(lambda api: api.list_nodes())} == ZONES
        for name in ("a", "b", "c"):
            volume = cluster.create_volume(name, size=32 << 20)
            assert {ZONES[one.node_id] for one in volume.replicas} == set(ZONES.values())
        why = cluster.api(lambda api: api.why_volume("a"))
        reasons = {one.node_id: one.reason for one in why.placement}
        (passed_over,) = [one.node_id for one in why.placement if not one.chosen]
        assert reasons[passed_over] == "has room, zone rack1 has a replica already"
        assert reasons["n3"] == "has room, in zone rack2"
