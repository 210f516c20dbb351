"""The first bytes of a replication connection: good ones survive the trip, every kind of bad one is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sparrow.base.errors import LocalProtocolError, RemoteProtocolError
from sparrow.base.ids import Epoch, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.formats.crc32c import crc32c
from sparrow.formats.hello import (
    CHALLENGE,
    HELLO,
    HELLO_ANSWER,
    PROOF,
    VERSION_MAX,
    VERSION_MIN,
    WHO_CONNECTS,
    WHO_LISTENS,
    ClusterKey,
    Hello,
    HelloAnswer,
    HelloCode,
    LinkKind,
    answer_proves,
    common_feature_level,
    common_version,
    decode_answer,
    decode_hello,
    encode_answer,
    encode_challenge,
    encode_hello,
    encode_proof,
    is_answer,
    proves,
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
    key_id=b"key id 1",
    nonce=b"nonce of who connects".ljust(32),
)
KEY = ClusterKey(secret=b"secret".ljust(32))
OTHER = ClusterKey(secret=b"another secret".ljust(32))
SAID = encode_hello(SHIP)
CHALLENGED = encode_challenge(b"nonce of who listens".ljust(32))
PROVED = encode_proof(KEY, SAID, CHALLENGED)
GRANT = Hello(kind=LinkKind.GRANT, cluster_id="c1", from_node=NodeId("n1"), to_node=NodeId("n2"))


@pytest.mark.parametrize("hello", [SHIP, GRANT])
def test_a_hello_survives_the_trip(hello: Hello) -> None:
    data = encode_hello(hello)
    assert len(data) == HELLO.size
    assert decode_hello(data) == hello


@pytest.mark.parametrize("code", list(HelloCode))
def test_every_answer_survives_the_trip(code: HelloCode) -> None:
    version = VERSION_MAX if code is HelloCode.ACCEPTED else 0
    level = 1 if code is HelloCode.ACCEPTED else 0
    answer = HelloAnswer(code=code, version=version, feature_level=level, promised_epoch=Epoch(9))
    data = encode_answer(answer, KEY, SAID, CHALLENGED, PROVED)
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
    data = bytearray(encode_answer(HelloAnswer(code=HelloCode.NOT_NOW)))
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
    [
        (VERSION_MAX, VERSION_MAX, VERSION_MAX),
        (VERSION_MIN, 9, VERSION_MAX),
        (0, VERSION_MIN, VERSION_MIN),
        (VERSION_MAX + 1, 9, None),
        (0, VERSION_MIN - 1, None),
    ],
)
def test_the_newest_common_version_is_spoken(lowest: int, highest: int, common: int | None) -> None:
    assert common_version(replace(SHIP, version_min=lowest, version_max=highest)) == common


@pytest.mark.parametrize(
    ("theirs", "ours", "common"),
    [
        ((1, 3), (1, 3), 3),
        ((1, 9), (2, 3), 3),
        ((3, 4), (1, 3), 3),
        ((4, 9), (1, 3), None),
        ((1, 1), (2, 3), None),
    ],
)
def test_the_newest_common_feature_level_is_shipped(
    theirs: tuple[int, int], ours: tuple[int, int], common: int | None
) -> None:
    hello = replace(SHIP, feature_min=theirs[0], feature_max=theirs[1])
    assert common_feature_level(hello, lowest=ours[0], highest=ours[1]) == common


@pytest.mark.parametrize("change", [{"version": 99}, {"feature_level": 99}, {"feature_level": 0}])
def test_an_accepting_answer_must_name_what_we_speak(change: dict[str, int]) -> None:
    good = HelloAnswer(code=HelloCode.ACCEPTED, version=VERSION_MAX, feature_level=1)
    assert decode_answer(encode_answer(good)) == good
    with pytest.raises(RemoteProtocolError):
        decode_answer(encode_answer(replace(good, **change)))


# ---------------------------------------------------------------- proofs


def test_who_connects_proves_itself_for_this_conversation_only() -> None:
    assert len(PROVED) == PROOF.size
    assert proves(KEY, PROVED, SAID, CHALLENGED)
    assert not proves(OTHER, PROVED, SAID, CHALLENGED)
    assert not proves(KEY, PROVED, SAID, encode_challenge(b"another nonce".ljust(32)))


@pytest.mark.parametrize(
    "change",
    [
        {"from_node": NodeId("n3")},
        {"to_node": NodeId("n3")},
        {"cluster_id": "c2"},
        {"volume_id": VolumeId("w")},
        {"to_replica": ReplicaId("r3")},
        {"uuid": ReplicaUuid("0" * 31 + "1")},
        {"term_epoch": Epoch(8)},
        {"term_start": 4},
        {"kind": LinkKind.GRANT},
        {"feature_max": 9},
        {"nonce": b"another".ljust(32)},
    ],
)
def test_a_proof_is_worth_nothing_under_a_changed_hello(change: dict[str, object]) -> None:
    changed = encode_hello(replace(SHIP, **change))  # type: ignore[arg-type]
    assert not proves(KEY, PROVED, changed, CHALLENGED)


def test_who_listens_proves_itself_and_its_answer() -> None:
    answer = encode_answer(
        HelloAnswer(code=HelloCode.STALE_TERM, promised_epoch=Epoch(9)),
        KEY,
        SAID,
        CHALLENGED,
        PROVED,
    )
    assert answer_proves(KEY, answer, SAID, CHALLENGED, PROVED)
    assert not answer_proves(OTHER, answer, SAID, CHALLENGED, PROVED)
    assert not answer_proves(KEY, answer, SAID, encode_challenge(bytes(32)), PROVED)
    bare = encode_answer(HelloAnswer(code=HelloCode.STALE_TERM, promised_epoch=Epoch(9)))
    assert not answer_proves(KEY, bare, SAID, CHALLENGED, PROVED)


@pytest.mark.parametrize("name", ["code", "version", "feature_level", "promised_epoch", "mac"])
def test_an_answer_cannot_be_changed_on_the_way(name: str) -> None:
    good = HelloAnswer(code=HelloCode.ACCEPTED, version=VERSION_MAX, feature_level=1)
    answer = bytearray(encode_answer(good, KEY, SAID, CHALLENGED, PROVED))
    answer[HELLO_ANSWER.offset_of(name)] ^= 1
    assert not answer_proves(KEY, bytes(answer), SAID, CHALLENGED, PROVED)


def test_the_proof_of_one_end_is_none_of_the_other() -> None:
    """Reflection: what is said to us cannot be said back, though key, hello and nonces are the same."""
    at, size = PROOF.offset_of("mac"), PROOF.field("mac").size
    answer = bytearray(encode_answer(HelloAnswer(code=HelloCode.NOT_NOW)))
    start = HELLO_ANSWER.offset_of("mac")
    answer[start : start + size] = PROVED[at : at + size]
    assert not answer_proves(KEY, bytes(answer), SAID, CHALLENGED, PROVED)


def test_the_two_ends_prove_with_words_of_their_own() -> None:
    """Neither begins like the other, so no message of one end can be read as one of the other."""
    assert not WHO_LISTENS.startswith(WHO_CONNECTS)
    assert not WHO_CONNECTS.startswith(WHO_LISTENS)


def test_a_challenge_and_an_answer_are_told_apart() -> None:
    assert CHALLENGE.size == HELLO_ANSWER.size
    assert not is_answer(CHALLENGED)
    assert is_answer(encode_answer(HelloAnswer(code=HelloCode.VERSION)))
    with pytest.raises(RemoteProtocolError):
        encode_proof(KEY, SAID, encode_answer(HelloAnswer(code=HelloCode.VERSION)))
    with pytest.raises(RemoteProtocolError):
        proves(KEY, PROVED[:-1] + b"x", SAID, CHALLENGED)


def test_the_name_of_a_key_tells_nothing_about_it() -> None:
    assert KEY.key_id != OTHER.key_id
    assert KEY.secret[:6] not in KEY.key_id
    assert "secret" not in repr(KEY)


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")
