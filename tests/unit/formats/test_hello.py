"""The first bytes of a replication connection: good ones survive the trip, every kind of bad one is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.base.errors import LocalProtocolError, RemoteProtocolError
from sparrow.base.ids import Epoch, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.formats.crc32c import crc32c
from sparrow.formats.hello import (
    HELLO,
    HELLO_ANSWER,
    VERSION_MAX,
    Hello,
    HelloAnswer,
    HelloCode,
    LinkKind,
    common_version,
    decode_answer,
    decode_hello,
    encode_answer,
    encode_hello,
)

SHIP = Hello(
    kind=LinkKind.SHIP,
    cluster_id="c1",
    from_node=NodeId("n1"),
    to_node=NodeId("n2"),
    volume_id=VolumeId("v" * 63),
    from_replica=ReplicaId("r1"),
    to_replica=ReplicaId("r2"),
    uuid=ReplicaUuid("0123456789abcdef" * 2),
    term_epoch=Epoch(7),
    term_start=3,
)
GRANT = Hello(kind=LinkKind.GRANT, cluster_id="c1", from_node=NodeId("n1"), to_node=NodeId("n2"))


@pytest.mark.parametrize("hello", [SHIP, GRANT])
def test_a_hello_survives_the_trip(hello: Hello) -> None:
    data = encode_hello(hello)
    assert len(data) == HELLO.size
    assert decode_hello(data) == hello


@pytest.mark.parametrize("code", list(HelloCode))
def test_every_answer_survives_the_trip(code: HelloCode) -> None:
    version = VERSION_MAX if code is HelloCode.ACCEPTED else 0
    answer = HelloAnswer(code=code, version=version, promised_epoch=Epoch(9))
    data = encode_answer(answer)
    assert len(data) == HELLO_ANSWER.size
    assert decode_answer(data) == answer


@pytest.mark.parametrize("at", [0, 8, 16, 24, 40, 100, 200, 300, HELLO.size - 1])
def test_one_flipped_bit_is_refused(at: int) -> None:
    data = bytearray(encode_hello(SHIP))
    data[at] ^= 0x10
    with pytest.raises(RemoteProtocolError):
        decode_hello(bytes(data))


@pytest.mark.parametrize("at", range(0, HELLO_ANSWER.size, 7))
def test_one_flipped_bit_in_an_answer_is_refused(at: int) -> None:
    data = bytearray(encode_answer(HelloAnswer(code=HelloCode.ACCEPTED, version=1)))
    data[at] ^= 0x01
    with pytest.raises(RemoteProtocolError):
        decode_answer(bytes(data))


def test_too_few_bytes_are_refused() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_hello(encode_hello(SHIP)[:-1])


@pytest.mark.parametrize(
    "gap",
    [
        {"volume_id": VolumeId("")},
        {"to_replica": ReplicaId("")},
        {"from_replica": ReplicaId("")},
        {"uuid": None},
        {"term_epoch": Epoch(0)},
        {"from_node": NodeId("")},
        {"to_node": NodeId("")},
    ],
)
def test_a_ship_link_must_name_everything(gap: dict[str, object]) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_hello(encode_hello(replace(SHIP, **gap)))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "change",
    [
        {"volume_id": VolumeId("v" * 65)},
        {"to_replica": ReplicaId("r" * 17)},
        {"cluster_id": "a\0b"},
        {"uuid": ReplicaUuid("not a uuid")},
    ],
)
def test_what_does_not_fit_is_our_own_fault(change: dict[str, object]) -> None:
    with pytest.raises(LocalProtocolError):
        encode_hello(replace(SHIP, **change))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("lowest", "highest", "common"),
    [(1, 1, 1), (1, 9, VERSION_MAX), (0, 1, 1), (VERSION_MAX + 1, 9, None), (0, 0, None)],
)
def test_the_newest_common_version_is_spoken(lowest: int, highest: int, common: int | None) -> None:
    assert common_version(replace(SHIP, version_min=lowest, version_max=highest)) == common


def test_an_accepting_answer_must_name_a_version_we_speak() -> None:
    with pytest.raises(RemoteProtocolError):
        decode_answer(encode_answer(HelloAnswer(code=HelloCode.ACCEPTED, version=99)))


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")
