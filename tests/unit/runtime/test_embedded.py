"""The embedded cluster's plan, its directory and its file."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from sparrow.base.errors import ConfigError, FailedPrecondition
from sparrow.runtime.embedded import (
    EmbeddedCluster,
    node_arguments,
    plan_cluster,
    read_cluster_file,
)
from sparrow.runtime.supervisor import Child
from tests.support.ports import HOST, free_base

#: From the master's to the last one of one node.
PORTS = 15


def nobody(_child: Child) -> None:
    """Tell nobody of a child's change."""


def test_every_address_of_a_plan_is_another_one(tmp_path: Path) -> None:
    addresses = plan_cluster(tmp_path, nodes=16).addresses
    assert len(set(addresses)) == len(addresses) == 1 + 5 * 16


@pytest.mark.parametrize("nodes", [-1, 0, 17])
def test_an_impossible_number_of_nodes_is_refused(tmp_path: Path, nodes: int) -> None:
    with pytest.raises(ConfigError, match=f"{nodes} nodes are not possible"):
        plan_cluster(tmp_path, nodes=nodes)


@pytest.mark.parametrize("base", [0, 1023, 65510])
def test_ports_outside_the_range_are_refused_with_the_range(tmp_path: Path, base: int) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_cluster(tmp_path, nodes=3, base_port=base)
    assert "1024 to 65501" in caught.value.hint
    plan_cluster(tmp_path, nodes=3, base_port=65501)


def test_a_node_is_told_its_own_addresses(tmp_path: Path) -> None:
    plan = plan_cluster(tmp_path, nodes=2)
    arguments = node_arguments(plan, plan.nodes[1])
    assert arguments[arguments.index("--node-id") + 1] == "n2"
    assert arguments[arguments.index("--listen-iscsi") + 1] == "127.0.0.1:7422"
    assert arguments[arguments.index("--listen-nvme") + 1] == "127.0.0.1:7423"
    assert arguments[arguments.index("--master") + 1] == "127.0.0.1:7400"


def test_a_directory_has_one_cluster_at_a_time(tmp_path: Path) -> None:
    plan = plan_cluster(tmp_path, nodes=1, base_port=free_base(PORTS))
    first = EmbeddedCluster(plan, nobody)
    first.claim()
    with pytest.raises(FailedPrecondition, match=r"running in .* already"):
        EmbeddedCluster(plan, nobody).claim()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    base = free_base(PORTS)
    with socket.socket() as other:
        other.bind((HOST, base + 12))
        with pytest.raises(ConfigError, match=f"Port {base + 12} on {HOST} is needed"):
            EmbeddedCluster(plan_cluster(tmp_path, nodes=1, base_port=base), nobody).claim()


def test_a_directory_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    plan = plan_cluster(tmp_path / "file" / "x", nodes=1, base_port=free_base(PORTS))
    with pytest.raises(ConfigError, match="cannot hold the cluster"):
        EmbeddedCluster(plan, nobody).claim()


async def test_the_file_tells_addresses_and_survives_a_restart(tmp_path: Path) -> None:
    plan = plan_cluster(tmp_path, nodes=1, base_port=free_base(PORTS))
    cluster = EmbeddedCluster(plan, nobody)
    cluster.claim()
    assert not cluster.demo_made
    cluster.demo_made = True
    await cluster.stop()
    content = read_cluster_file(tmp_path)
    assert content is not None
    assert content["master"] == {"addr": plan.master_addr, "pid": 0}
    assert content["nodes"][0]["iscsi_addr"] == plan.nodes[0].iscsi_addr
    assert content["nodes"][0]["nvme_addr"] == plan.nodes[0].nvme_addr
    again = EmbeddedCluster(plan, nobody)
    again.claim()
    assert again.demo_made
    await again.stop()


@pytest.mark.parametrize("text", ["", "{", "[]", json.dumps({"version": 99})])
def test_a_file_of_another_kind_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "cluster.json").write_text(text)
    assert read_cluster_file(tmp_path) is None
