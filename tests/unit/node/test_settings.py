"""Settings of a node that name its portals."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrow.node.config import NodeSettings, iscsi_portals, validate


def _faults(listen: str, **more: str) -> list[str]:
    settings = NodeSettings(
        node_id="n1",
        pool=Path("pool"),
        cluster_key=Path("key"),
        master="h:1",
        listen_iscsi=listen,
        **more,
    )
    return validate(settings)


@pytest.mark.parametrize(
    "listen", ["10.0.0.1:3260", "10.0.0.1:3260, [fd00::1]:3260", "127.0.0.1:0,127.0.0.1:0"]
)
def test_one_or_several_portals_are_taken(listen: str) -> None:
    assert _faults(listen) == []


@pytest.mark.parametrize(
    ("listen", "what"),
    [
        ("", "has 0 addresses"),
        (",", "has 0 addresses"),
        (",".join(f"10.0.0.{n}:3260" for n in range(9)), "has 9 addresses"),
        ("10.0.0.1:3260,10.0.0.1:3260", "twice"),
        ("10.0.0.1:3260,nonsense", "listen_iscsi:"),
        ("10.0.0.1:3260,0.0.0.0:3261", "listens everywhere"),
    ],
)
def test_portals_that_cannot_be_are_refused_by_name(listen: str, what: str) -> None:
    faults = _faults(listen)
    assert len(faults) == 1
    assert what in faults[0]


def test_a_portal_on_every_address_is_told_by_the_advertised_name() -> None:
    assert _faults("10.0.0.1:3260,0.0.0.0:3261", advertise_host="n1.example") == []


def test_the_order_of_portals_is_kept() -> None:
    settings = NodeSettings(
        node_id="n1",
        pool=Path("pool"),
        cluster_key=Path("key"),
        master="h:1",
        listen_iscsi=" b:2 , a:1",
    )
    assert iscsi_portals(settings) == ("b:2", "a:1")
