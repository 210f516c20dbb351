"""First bytes on a connection to a node's replication port, and the answer to them.

The side that connects sends one ``hello`` and waits for one ``hello_answer``; nothing else is on the wire before it.
A hello is valid if and only if its magic and ``check`` are right, its texts are UTF-8 padded with zero bytes, and its
kind is known. It names everything that must agree before a byte of a log may flow: cluster, volume, both replicas,
the uuid of the files it wants to feed, the term it speaks for, both nodes. The answer says yes, with the version to
speak, or why not, with the epoch promised there when that is the reason. After a yes the connection belongs to the
frames of ``formats.links``: of the ship link for kind 1, of the grant link for kind 2, whose hello leaves volume,
replicas, uuid and term zero.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from sparrow.base.constants import FEATURE_LEVEL
from sparrow.base.errors import LocalProtocolError, RemoteProtocolError
from sparrow.base.ids import Epoch, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.formats.layout import Field, Layout, Record

HELLO_MAGIC: Final = 0x4F4C4548_50535F31
ANSWER_MAGIC: Final = 0x52574E41_50535F31
VERSION_MIN: Final = 1
VERSION_MAX: Final = 1

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
        Field("feature_level", "u32", "newest entry kinds the sender may ship"),
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
        Field("reserved", "reserved40", "zero"),
    ),
)

HELLO_ANSWER: Final = Layout(
    "hello_answer",
    order="le",
    size=64,
    doc="The answer to a hello.",
    fields=(
        Field("magic", "u64", "ANSWER_MAGIC"),
        Field("check", "u32", "CRC-32 (ISO-HDLC) of the answer with this field zero"),
        Field("code", "u32", "0 accepted, else the reason"),
        Field("version", "u16", "version to speak; zero unless accepted"),
        Field("reserved", "reserved6", "zero"),
        Field("promised_epoch", "u64", "with code 6: the epoch promised there"),
        Field("reserved1", "reserved32", "zero"),
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
    feature_level: int = FEATURE_LEVEL


@dataclass(frozen=True, slots=True, kw_only=True)
class HelloAnswer:
    """``version`` is the one to speak, 0 unless accepted; ``promised_epoch`` goes with STALE_TERM."""

    code: HelloCode
    version: int = 0
    promised_epoch: Epoch = Epoch(0)


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
            "feature_level": hello.feature_level,
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
        feature_level=record.number("feature_level"),
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


def encode_answer(answer: HelloAnswer) -> bytes:
    return _seal(
        HELLO_ANSWER,
        {
            "magic": ANSWER_MAGIC,
            "check": 0,
            "code": answer.code,
            "version": answer.version,
            "promised_epoch": answer.promised_epoch,
        },
    )


def decode_answer(data: bytes) -> HelloAnswer:
    """Read the ``HELLO_ANSWER.size`` bytes a peer sent. Raises: RemoteProtocolError."""
    record = _open(HELLO_ANSWER, data, ANSWER_MAGIC)
    code = record.number("code")
    if code not in HelloCode.__members__.values():
        raise RemoteProtocolError(f"An answer to our hello with unknown code {code}.")
    answer = HelloAnswer(
        code=HelloCode(code),
        version=record.number("version"),
        promised_epoch=Epoch(record.number("promised_epoch")),
    )
    if answer.code is HelloCode.ACCEPTED and not VERSION_MIN <= answer.version <= VERSION_MAX:
        raise RemoteProtocolError(
            f"The peer wants to speak version {answer.version}, which was not offered."
        )
    return answer


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
