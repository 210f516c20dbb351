"""First bytes on a connection to a node's replication port: who connects, for what, and proof of both ends.

    connects                                     listens
    hello (ids, lineage, purpose, nonce)   ->
                                           <-    challenge (nonce), or a hello_answer that refuses
    proof                                  ->
                                           <-    hello_answer (with a proof of its own)

A hello names everything that must agree before a byte of a log may flow: cluster, volume, both replicas, the uuid of
the files it wants to feed, the term it speaks for, both nodes. After an answer that accepts, the connection belongs to
the frames of ``formats.links``: of the ship link for kind 1, of the grant link for kind 2, whose hello leaves volume,
replicas, uuid and term zero. The answer says yes, with the version and the feature level to speak, or why not, with
the epoch promised there when that is the reason.

A record is valid if and only if its magic and ``check`` are right, its texts are UTF-8 padded with zero bytes, and its
kind or code is known. That finds accidents. What keeps strangers out are the proofs, both of them HMAC-SHA-256 (RFC
2104) with the cluster key that the hello names:

    proof.mac          over "sparrow link: who connects"  + hello + challenge
    hello_answer.mac   over "sparrow link: who listens"   + hello + challenge + proof
                            + the answer with check and mac zero

Why that is enough. Both nonces are 32 random bytes, drawn for this connection, and under each mac: what was recorded on
another connection proves nothing on this one (replay). The two texts differ: what one end says can never be given
back as what the other end must say (reflection). The mac covers the hello, so no id, term or purpose can be changed on
the way; a hello that names another node than the one it reached is refused after its proof, so a node cannot be
talked to in its own words. The listener looks at nothing but versions before the proof and says nothing about its
volumes to who has none; the side that connects believes no answer without a mac, save that versions or keys do not
match, which make it give up the attempt and nothing else. Frames are looked at only after both proofs.

What it does not do: nothing is encrypted, and who can rewrite packets of a proved connection can change its frames.
"""

from __future__ import annotations

import hmac
import re
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sparrow.base.constants import FEATURE_LEVEL, FEATURE_LEVEL_MIN
from sparrow.base.errors import LocalProtocolError, RemoteProtocolError
from sparrow.base.ids import Epoch, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.formats.layout import Field, Layout, Record

HELLO_MAGIC: Final = 0x4F4C4548_50535F31
CHALLENGE_MAGIC: Final = 0x4C414843_50535F31
PROOF_MAGIC: Final = 0x464F5250_50535F31
ANSWER_MAGIC: Final = 0x52574E41_50535F31
#: 2: both ends prove that they know the cluster key.
VERSION_MIN: Final = 2
VERSION_MAX: Final = 2

NONCE_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
WHO_CONNECTS: Final = b"sparrow link: who connects\0"
WHO_LISTENS: Final = b"sparrow link: who listens\0"

UUID_TEXT: Final = re.compile("[0-9a-f]{32}")


class LinkKind(IntEnum):
    """What the connection is for."""

    SHIP = 1
    GRANT = 2


class HelloCode(IntEnum):
    """The answer; everything but ACCEPTED closes the connection."""

    ACCEPTED = 0
    VERSION = 1
    WRONG_CLUSTER = 2
    WRONG_NODE = 3
    NO_SUCH_VOLUME = 4
    WRONG_UUID = 5
    STALE_TERM = 6
    NOT_NOW = 7
    FEATURE_LEVEL = 8
    UNKNOWN_KEY = 9
    WRONG_PROOF = 10


#: May come instead of a challenge, so without a mac: they end the attempt and mean nothing else.
BEFORE_PROOF: Final = frozenset({HelloCode.VERSION, HelloCode.FEATURE_LEVEL, HelloCode.UNKNOWN_KEY})
#: Without a mac as well: the listener cannot know which key the other end has.
WITHOUT_MAC: Final = BEFORE_PROOF | {HelloCode.WRONG_PROOF}


HELLO: Final = Layout(
    "hello",
    order="le",
    size=384,
    doc="Sent once by the side that connects to a replication port.",
    fields=(
        Field("magic", "u64", "HELLO_MAGIC"),
        Field("check", "u32", "CRC-32 (ISO-HDLC) of the hello with this field zero"),
        Field("version_min", "u16", "oldest version of the link frames the sender speaks"),
        Field("version_max", "u16", "newest version of the link frames the sender speaks"),
        Field("feature_min", "u16", "oldest feature level whose entries the sender can do without"),
        Field("feature_max", "u16", "newest feature level whose entries the sender knows"),
        Field("kind", "u32", "1 ship, 2 grant"),
        Field("cluster_id", "bytes64", "UTF-8, zero padded"),
        Field("volume_id", "bytes64", "UTF-8, zero padded; zero for kind 2"),
        Field("from_replica", "bytes16", "the primary's replica id, zero padded; zero for kind 2"),
        Field("to_replica", "bytes16", "the follower's replica id, zero padded; zero for kind 2"),
        Field("uuid", "bytes16", "of the follower's files; zero for kind 2"),
        Field("term_epoch", "u64", "term of the primary: epoch; zero for kind 2"),
        Field("term_start", "u64", "term of the primary: start counter; zero for kind 2"),
        Field("from_node", "bytes64", "the sender's node id, zero padded"),
        Field("to_node", "bytes64", "the node the sender means to reach, zero padded"),
        Field("key_id", "bytes8", "names the key the sender proves with"),
        Field("nonce", "bytes32", "random, of this connection"),
    ),
)

CHALLENGE: Final = Layout(
    "challenge",
    order="le",
    size=96,
    doc="Sent by the side that listens when it knows the key that the hello names.",
    fields=(
        Field("magic", "u64", "CHALLENGE_MAGIC"),
        Field("check", "u32", "CRC-32 (ISO-HDLC) of the challenge with this field zero"),
        Field("reserved", "reserved4", "zero"),
        Field("nonce", "bytes32", "random, of this connection"),
        Field("reserved1", "reserved48", "zero"),
    ),
)

PROOF: Final = Layout(
    "proof",
    order="le",
    size=64,
    doc="The answer to a challenge.",
    fields=(
        Field("magic", "u64", "PROOF_MAGIC"),
        Field("check", "u32", "CRC-32 (ISO-HDLC) of the proof with this field zero"),
        Field("reserved", "reserved4", "zero"),
        Field("mac", "bytes32", "HMAC-SHA-256, as above"),
        Field("reserved1", "reserved16", "zero"),
    ),
)

HELLO_ANSWER: Final = Layout(
    "hello_answer",
    order="le",
    size=96,
    doc="The last record before the frames, or a refusal.",
    fields=(
        Field("magic", "u64", "ANSWER_MAGIC"),
        Field("check", "u32", "CRC-32 (ISO-HDLC) of the answer with this field zero"),
        Field("code", "u32", "0 accepted, else the reason"),
        Field("version", "u16", "version to speak; zero unless accepted"),
        Field("feature_level", "u16", "feature level to ship; zero unless accepted"),
        Field("version_min", "u16", "oldest version spoken there"),
        Field("version_max", "u16", "newest version spoken there"),
        Field("feature_min", "u16", "oldest feature level there"),
        Field("feature_max", "u16", "newest feature level there"),
        Field("reserved", "reserved4", "zero"),
        Field("promised_epoch", "u64", "with code 6: the epoch promised there"),
        Field("mac", "bytes32", "HMAC-SHA-256, as above; zero with codes 1, 8, 9 and 10"),
        Field("reserved1", "reserved24", "zero"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Who connects, to whom, for what.

    Kind GRANT leaves the fields from ``volume_id`` to ``term_start`` empty.
    """

    kind: LinkKind
    cluster_id: str
    from_node: NodeId
    to_node: NodeId
    volume_id: VolumeId = VolumeId("")
    from_replica: ReplicaId = ReplicaId("")
    to_replica: ReplicaId = ReplicaId("")
    uuid: ReplicaUuid | None = None
    term_epoch: Epoch = Epoch(0)
    term_start: int = 0
    version_min: int = VERSION_MIN
    version_max: int = VERSION_MAX
    feature_min: int = FEATURE_LEVEL_MIN
    feature_max: int = FEATURE_LEVEL
    #: Of the connection; the side that connects fills them in.
    key_id: bytes = bytes(KEY_ID_BYTES)
    nonce: bytes = bytes(NONCE_BYTES)


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloAnswer:
    """``version`` and ``feature_level`` are those to speak, 0 unless accepted; ``promised_epoch`` goes with STALE_TERM.

    The four bounds are those of the side that answers.
    """

    code: HelloCode
    version: int = 0
    feature_level: int = 0
    promised_epoch: Epoch = Epoch(0)
    version_min: int = VERSION_MIN
    version_max: int = VERSION_MAX
    feature_min: int = FEATURE_LEVEL_MIN
    feature_max: int = FEATURE_LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterKey:
    """A secret that every process of a cluster knows; its id names it and tells nothing about it."""

    secret: bytes

    @property
    def key_id(self) -> bytes:
        return mac(self.secret, b"sparrow key id\0")[:KEY_ID_BYTES]

    def __repr__(self) -> str:
        return f"ClusterKey({self.key_id.hex()})"


def mac(secret: bytes, *parts: bytes) -> bytes:
    """HMAC-SHA-256 over the parts, each of which has a length that the first one fixes."""
    return hmac.digest(secret, b"".join(parts), "sha256")


def encode_hello(hello: Hello) -> bytes:
    """Raises: LocalProtocolError: a text is too long for its field, or the uuid is none."""
    uuid = hello.uuid or "0" * 32
    if not UUID_TEXT.fullmatch(uuid):
        raise LocalProtocolError(f"{uuid!r} is not a replica uuid.")
    return _seal(
        HELLO,
        {
            "magic": HELLO_MAGIC,
            "check": 0,
            "version_min": hello.version_min,
            "version_max": hello.version_max,
            "feature_min": hello.feature_min,
            "feature_max": hello.feature_max,
            "kind": hello.kind,
            "cluster_id": _padded(hello.cluster_id, "cluster_id"),
            "volume_id": _padded(hello.volume_id, "volume_id"),
            "from_replica": _padded(hello.from_replica, "from_replica"),
            "to_replica": _padded(hello.to_replica, "to_replica"),
            "uuid": bytes.fromhex(uuid),
            "term_epoch": hello.term_epoch,
            "term_start": hello.term_start,
            "from_node": _padded(hello.from_node, "from_node"),
            "to_node": _padded(hello.to_node, "to_node"),
            "key_id": hello.key_id,
            "nonce": hello.nonce,
        },
    )


def decode_hello(data: bytes) -> Hello:
    """Read the ``HELLO.size`` bytes a peer sent. Raises: RemoteProtocolError."""
    record = _open(HELLO, data, HELLO_MAGIC)
    kind = record.number("kind")
    if kind not in LinkKind.__members__.values():
        raise RemoteProtocolError(f"A hello of unknown kind {kind}.")
    uuid = record.blob("uuid").hex()
    hello = Hello(
        kind=LinkKind(kind),
        cluster_id=_text(record, "cluster_id"),
        from_node=NodeId(_text(record, "from_node")),
        to_node=NodeId(_text(record, "to_node")),
        volume_id=VolumeId(_text(record, "volume_id")),
        from_replica=ReplicaId(_text(record, "from_replica")),
        to_replica=ReplicaId(_text(record, "to_replica")),
        uuid=ReplicaUuid(uuid) if uuid != "0" * 32 else None,
        term_epoch=Epoch(record.number("term_epoch")),
        term_start=record.number("term_start"),
        version_min=record.number("version_min"),
        version_max=record.number("version_max"),
        feature_min=record.number("feature_min"),
        feature_max=record.number("feature_max"),
        key_id=record.blob("key_id"),
        nonce=record.blob("nonce"),
    )
    names_volume = bool(hello.volume_id and hello.to_replica and hello.from_replica and hello.uuid)
    if hello.kind is LinkKind.SHIP and not (names_volume and hello.term_epoch):
        raise RemoteProtocolError(
            "A hello for a ship link that does not name volume, replicas, uuid and term."
        )
    if not hello.from_node or not hello.to_node:
        raise RemoteProtocolError("A hello that does not name both nodes.")
    return hello


def common_version(hello: Hello) -> int | None:
    """The newest version both sides speak, None when there is none."""
    version = min(hello.version_max, VERSION_MAX)
    return version if version >= max(hello.version_min, VERSION_MIN) else None


def common_feature_level(
    hello: Hello, *, lowest: int = FEATURE_LEVEL_MIN, highest: int = FEATURE_LEVEL
) -> int | None:
    """The newest feature level both sides know and neither finds too old, None when there is none."""
    level = min(hello.feature_max, highest)
    return level if level >= max(hello.feature_min, lowest) else None


def encode_challenge(nonce: bytes) -> bytes:
    return _seal(CHALLENGE, {"magic": CHALLENGE_MAGIC, "check": 0, "nonce": nonce})


def encode_proof(key: ClusterKey, hello: bytes, challenge: bytes) -> bytes:
    """What the side that connects answers a challenge with. Raises: RemoteProtocolError: it is none."""
    _open(CHALLENGE, challenge, CHALLENGE_MAGIC)
    proved = mac(key.secret, WHO_CONNECTS, hello, challenge)
    return _seal(PROOF, {"magic": PROOF_MAGIC, "check": 0, "mac": proved})


def proves(key: ClusterKey, proof: bytes, hello: bytes, challenge: bytes) -> bool:
    """Whether who sent the proof knows the key. Raises: RemoteProtocolError: it is no proof at all."""
    record = _open(PROOF, proof, PROOF_MAGIC)
    return hmac.compare_digest(record.blob("mac"), mac(key.secret, WHO_CONNECTS, hello, challenge))


def encode_answer(answer: HelloAnswer, key: ClusterKey | None = None, *before: bytes) -> bytes:
    """An answer; with a key, proved over what went before: hello, challenge, proof."""
    values: dict[str, int | bytes | tuple[int, ...]] = {
        "magic": ANSWER_MAGIC,
        "check": 0,
        "code": answer.code,
        "version": answer.version,
        "feature_level": answer.feature_level,
        "version_min": answer.version_min,
        "version_max": answer.version_max,
        "feature_min": answer.feature_min,
        "feature_max": answer.feature_max,
        "promised_epoch": answer.promised_epoch,
        "mac": bytes(32),
    }
    if key is not None:
        values["mac"] = mac(key.secret, WHO_LISTENS, *before, HELLO_ANSWER.pack(values))
    return _seal(HELLO_ANSWER, values)


def is_answer(data: bytes) -> bool:
    """Whether what came instead of a challenge is an answer; both have one size."""
    return data[:8] == ANSWER_MAGIC.to_bytes(8, "little")


def decode_answer(data: bytes) -> HelloAnswer:
    """Read the ``HELLO_ANSWER.size`` bytes a peer sent; nothing is proved by that. Raises: RemoteProtocolError."""
    record = _open(HELLO_ANSWER, data, ANSWER_MAGIC)
    code = record.number("code")
    if code not in HelloCode.__members__.values():
        raise RemoteProtocolError(f"An answer to our hello with unknown code {code}.")
    answer = HelloAnswer(
        code=HelloCode(code),
        version=record.number("version"),
        feature_level=record.number("feature_level"),
        promised_epoch=Epoch(record.number("promised_epoch")),
        version_min=record.number("version_min"),
        version_max=record.number("version_max"),
        feature_min=record.number("feature_min"),
        feature_max=record.number("feature_max"),
    )
    if answer.code is HelloCode.ACCEPTED:
        if not VERSION_MIN <= answer.version <= VERSION_MAX:
            raise RemoteProtocolError(
                f"The peer wants to speak version {answer.version}, which was not offered."
            )
        if not FEATURE_LEVEL_MIN <= answer.feature_level <= FEATURE_LEVEL:
            raise RemoteProtocolError(
                f"The peer wants feature level {answer.feature_level}, which was not offered."
            )
    return answer


def answer_proves(key: ClusterKey, answer: bytes, *before: bytes) -> bool:
    """Whether who answered knows the key; ``before`` is hello, challenge and proof."""
    at, size = HELLO_ANSWER.offset_of("mac"), HELLO_ANSWER.field("mac").size
    check = HELLO_ANSWER.offset_of("check")
    bare = bytearray(answer)
    bare[at : at + size] = bytes(size)
    bare[check : check + 4] = bytes(4)
    expected = mac(key.secret, WHO_LISTENS, *before, bytes(bare))
    return hmac.compare_digest(answer[at : at + size], expected)


def _padded(text: str, name: str) -> bytes:
    raw = text.encode()
    size = HELLO.field(name).size
    if len(raw) > size or "\0" in text:
        raise LocalProtocolError(f"hello.{name}: {text!r} does not fit {size} bytes.")
    return raw.ljust(size, b"\0")


def _text(record: Record, name: str) -> str:
    raw = record.blob(name).rstrip(b"\0")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise RemoteProtocolError(f"hello.{name} is not UTF-8.") from None
    if "\0" in text:
        raise RemoteProtocolError(f"hello.{name} has a zero byte inside.")
    return text


def _seal(layout: Layout, values: dict[str, int | bytes | tuple[int, ...]]) -> bytes:
    bare = layout.pack(values)
    return layout.pack({**values, "check": zlib.crc32(bare)})


def _open(layout: Layout, data: bytes, magic: int) -> Record:
    record = layout.unpack(data, error=RemoteProtocolError)
    if record.number("magic") != magic:
        raise RemoteProtocolError(
            f"What answers there does not speak sparrow's replication: no {layout.name}."
        )
    at = layout.offset_of("check")
    bare = bytes(data[:at]) + bytes(4) + bytes(data[at + 4 : layout.size])
    if record.number("check") != zlib.crc32(bare):
        raise RemoteProtocolError(f"A {layout.name} whose checksum does not match.")
    return record
