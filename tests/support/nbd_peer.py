"""The client's side of an NBD negotiation, written apart from ours: bytes by struct, replies taken apart by hand."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from sparrow.base.ids import VolumeId
from sparrow.frontends.nbd.exports import Export

IHAVEOPT = b"IHAVEOPT"
REPLY_MAGIC = 0x3E889045565A9
FIXED, NO_ZEROES = 1, 2
ERROR = 1 << 31


def client_flags(flags: int = FIXED | NO_ZEROES) -> bytes:
    return struct.pack(">I", flags)


def option(kind: int, data: bytes = b"") -> bytes:
    return IHAVEOPT + struct.pack(">II", kind, len(data)) + data


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(">I", len(raw)) + raw


def choice(name: str, *requests: int) -> bytes:
    """Data of INFO and GO."""
    return string(name) + struct.pack(f">H{len(requests)}H", len(requests), *requests)


def query(name: str, *queries: str) -> bytes:
    """Data of LIST_META_CONTEXT and SET_META_CONTEXT."""
    return string(name) + struct.pack(">I", len(queries)) + b"".join(string(q) for q in queries)


@dataclass(frozen=True)
class OptionReply:
    option: int
    kind: int
    data: bytes

    @property
    def error(self) -> int:
        """Number of the error as proto.md counts them, 0 when it is none."""
        return self.kind & ~ERROR if self.kind & ERROR else 0


def replies(raw: bytes) -> list[OptionReply]:
    """Option replies, and nothing else, in what the server sent."""
    found = []
    while raw:
        magic, kind, reply, length = struct.unpack(">QIII", raw[:20])
        assert magic == REPLY_MAGIC
        assert len(raw) >= 20 + length
        found.append(OptionReply(kind, reply, raw[20 : 20 + length]))
        raw = raw[20 + length :]
    return found


def export(name: str, **changes: object) -> Export:
    values: dict[str, object] = {
        "name": name,
        "volume_id": VolumeId(name),
        "size_bytes": 1 << 30,
        "description": f"volume {name}",
    }
    return Export(**(values | changes))  # type: ignore[arg-type]


class FixedExports:
    """Exports that are what a test says."""

    def __init__(self, *exports: Export) -> None:
        self._exports = {one.name: one for one in exports}

    def find(self, name: str) -> Export | None:
        return self._exports.get(name)

    def listed(self) -> tuple[Export, ...]:
        return tuple(one for _, one in sorted(self._exports.items()))
