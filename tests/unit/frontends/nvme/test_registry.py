"""Controllers of a node: identifiers that no other node gives, and who may have a queue."""

from __future__ import annotations

import pytest

from sparrow.base.errors import LocalProtocolError
from sparrow.base.ids import VolumeId
from sparrow.frontends.nvme.connect import ConnectRequest
from sparrow.frontends.nvme.naming import is_legal_nqn, subsystem_nqn
from sparrow.frontends.nvme.registry import Registry, same_host
from sparrow.frontends.nvme.status import CommandRefused

DNR = 0x4000
VOLUME = VolumeId("vol")
ENABLE = 1 | 6 << 16 | 4 << 20


def connect(
    *, qid: int = 0, cntlid: int = 0xFFFF, host: str = "a", host_id: bytes = bytes(16)
) -> ConnectRequest:
    return ConnectRequest(
        qid=qid,
        entries=32,
        flow_control=True,
        kato_ms=0,
        host_id=host_id,
        host_nqn=f"nqn.2024-01.x:{host}",
        subsystem_nqn=subsystem_nqn(VOLUME),
        cntlid=cntlid,
    )


def refused(registry: Registry, request: ConnectRequest) -> tuple[int, int]:
    with pytest.raises(CommandRefused) as raised:
        registry.for_queue(VOLUME, request)
    return raised.value.status, raised.value.result


def test_nodes_of_one_subsystem_never_give_the_same_identifier() -> None:
    given = set()
    for place in (1, 2, 3):
        registry = Registry(first_serial=4090 + place)
        for _ in range(20):
            given.add(registry.add(VOLUME, connect(), place=place, now=0.0).controller.cntlid)
    assert len(given) == 60
    assert all(0 < cntlid <= 0xFFEF for cntlid in given)


def test_an_identifier_in_use_is_not_given_again() -> None:
    registry = Registry()
    first = registry.add(VOLUME, connect(), place=1, now=0.0)
    for _ in range(4094):
        registry.add(VOLUME, connect(), place=1, now=0.0)
    with pytest.raises(CommandRefused):
        registry.add(VOLUME, connect(), place=1, now=0.0)
    registry.remove(first.key)
    assert (
        registry.add(VOLUME, connect(), place=1, now=0.0).controller.cntlid
        == first.controller.cntlid
    )


def test_a_static_controller_is_refused() -> None:
    with pytest.raises(CommandRefused) as raised:
        Registry().add(VOLUME, connect(cntlid=5), place=1, now=0.0)
    assert (raised.value.status, raised.value.result) == (0x182 | DNR, 0x10010)


def test_a_queue_belongs_to_the_host_and_the_controller_it_names() -> None:
    registry = Registry()
    living = registry.add(VOLUME, connect(), place=1, now=0.0)
    mine = living.controller.cntlid
    assert refused(registry, connect(qid=1, cntlid=mine)) == (0x0C | DNR, 0), "not enabled"
    living.controller.properties.set(0x14, ENABLE, eight_bytes=False)
    assert registry.for_queue(VOLUME, connect(qid=1, cntlid=mine)) is living
    assert refused(registry, connect(qid=1, cntlid=mine + 1)) == (0x182 | DNR, 0x10010)
    assert refused(registry, connect(qid=9, cntlid=mine)) == (0x182 | DNR, 42)
    assert refused(registry, connect(qid=1, cntlid=mine, host="b")) == (0x184 | DNR, 0)
    assert refused(registry, connect(qid=1, cntlid=mine, host_id=b"x" * 16)) == (0x184 | DNR, 0)
    living.queues[1] = 77
    assert refused(registry, connect(qid=1, cntlid=mine)) == (0x0C | DNR, 0), "it has that one"
    registry.remove(living.key)
    assert refused(registry, connect(qid=2, cntlid=mine)) == (0x182 | DNR, 0x10010)


def test_a_host_is_its_name_and_its_identifier() -> None:
    assert same_host(connect(), connect(qid=1))
    assert not same_host(connect(), connect(host="b"))
    assert not same_host(connect(), connect(host_id=b"x" * 16))


def test_names_of_subsystems_are_legal_and_never_shared() -> None:
    names = {subsystem_nqn(VolumeId(name)) for name in ("vol", "Vol", "v_ol", "v:5fol", "ä")}
    assert len(names) == 5
    assert all(is_legal_nqn(name) for name in names)
    for bad in ("", "x" * 300):
        with pytest.raises(LocalProtocolError):
            subsystem_nqn(VolumeId(bad))
    assert not is_legal_nqn("iqn.2024-01.x:y")
    assert not is_legal_nqn("nqn.2024-01." + "x" * 220)
