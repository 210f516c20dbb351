"""The kernel's own NBD client on a cluster of three nodes."""

from __future__ import annotations

import asyncio

import pytest

from tests.interop.guest.bed import VOLUME, Bed
from tests.support.waiting import until

#: One: nbd-client passes TLS on in a process for each connection.
CONNECTIONS = 1


@pytest.mark.timeout(900)
def test_nbd_file_systems_live_on_the_disk_and_leave_nothing_behind(bed: Bed) -> None:
    primary = bed.cluster.primary(VOLUME)
    others = [node.nbd_addr for node in bed.cluster.nodes.values() if node is not primary]
    bed.asks["connections"] = lambda _: str(len(bed.connections(primary.nbd_addr)))
    result = bed.play(
        "nbd_life.sh",
        timeout_s=700,  # TLS in a translated processor
        environment={
            "EXPORT": VOLUME,
            "PORTAL": primary.nbd_addr,
            "OTHERS": " ".join(others),
            "CONNECTIONS": str(CONNECTIONS),
        },
    )
    assert f"{CONNECTIONS} connections" in result.output
    nodes = bed.cluster.nodes.values()
    asyncio.run(until(lambda: not any(bed.connections(node.nbd_addr) for node in nodes)))
    assert bed.cluster.verify(VOLUME) == []


@pytest.mark.timeout(600)
def test_nbd_an_old_primary_refuses_reads_and_writes(bed: Bed) -> None:
    old = bed.cluster.primary(VOLUME)
    new = bed.another(old)
    bed.asks |= bed.usurp(new, lambda node: node.nbd_addr)
    bed.play("nbd_stale.sh", timeout_s=240, environment={"EXPORT": VOLUME, "PRIMARY": old.nbd_addr})
    assert bed.cluster.verify(VOLUME) == []
