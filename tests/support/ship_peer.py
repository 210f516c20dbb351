"""The other end of a ship link, spoken by hand: frames as a primary sends them, acks as a follower gives them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from sparrow.authority.types import Term
from sparrow.base.constants import PAGE_BYTES
from sparrow.formats.crc32c import crc32c
from sparrow.formats.layout import Layout, Record, Value
from sparrow.formats.links import (
    ACK_MAGIC,
    FRAME_BATCH,
    FRAME_COMMIT,
    SHIP_ACK,
    SHIP_FRAME,
    SHIP_MAGIC,
)
from sparrow.formats.wal import BATCH

WAIT_S: Final = 30.0


class Link:
    """The far end of a ship link: frames when we are the primary, acks when we follow."""

    def __init__(self, *, buffer_bytes: int | None = None) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._socket = socket.socket()
            if buffer_bytes is not None:
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
            self._socket.connect(server.getsockname())
            other, _ = server.accept()
        if buffer_bytes is not None:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer_bytes)
        self._socket.setblocking(False)
        other.setblocking(False)
        self.theirs = other.detach()

    async def send(self, layout: Layout, values: dict[str, int], *, flip: str = "") -> None:
        """A record with its checksum; then a bit of one field may be flipped."""
        data = bytearray(layout.pack({**values, "check": 0}))
        data = bytearray(layout.pack({**values, "check": crc32c(bytes(data))}))
        if flip:
            data[layout.offset_of(flip)] ^= 1
        await asyncio.get_running_loop().sock_sendall(self._socket, bytes(data))

    async def send_body(self, values: dict[str, int], body: bytes) -> None:
        """A frame with what follows it."""
        await self.send(SHIP_FRAME, {**values, "body_bytes": len(body)})
        await asyncio.get_running_loop().sock_sendall(self._socket, body)

    async def send_bodies(self, frames: Sequence[tuple[dict[str, int], bytes]]) -> None:
        """Frames with their bodies in one piece, so that the other end has them all at once."""
        data = b""
        for values, body in frames:
            head = {**values, "body_bytes": len(body), "check": 0}
            data += SHIP_FRAME.pack({**head, "check": crc32c(SHIP_FRAME.pack(head))}) + body
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def next_ack(self) -> Record:
        """The next ack, its checksum looked at."""
        raw = await self._read(SHIP_ACK.size)
        found = SHIP_ACK.unpack(raw)
        assert found.number("magic") == ACK_MAGIC
        at = SHIP_ACK.offset_of("check")
        assert found.number("check") == crc32c(raw[:at] + bytes(4) + raw[at + 4 :])
        return found

    async def read_ack(self) -> None:
        """Returns when anything came, which is an ack: nothing else does."""
        async with asyncio.timeout(WAIT_S):
            assert await asyncio.get_running_loop().sock_recv(self._socket, SHIP_ACK.size)

    async def read_frame(self) -> tuple[Record, bytes]:
        """The next frame, its checksum looked at, and its body."""
        raw = await self._read(SHIP_FRAME.size)
        frame = SHIP_FRAME.unpack(raw)
        assert frame.number("magic") == SHIP_MAGIC
        at = SHIP_FRAME.offset_of("check")
        assert frame.number("check") == crc32c(raw[:at] + bytes(4) + raw[at + 4 :])
        return frame, await self._read(frame.number("body_bytes"))

    async def _read(self, size: int) -> bytes:
        data = b""
        async with asyncio.timeout(WAIT_S):
            while len(data) < size:
                part = await asyncio.get_running_loop().sock_recv(self._socket, size - len(data))
                assert part, "the core closed the link"
                data += part
        return data

    def close(self) -> None:
        self._socket.close()


@contextlib.contextmanager
def link(*, buffer_bytes: int | None = None) -> Iterator[Link]:
    made = Link(buffer_bytes=buffer_bytes)
    try:
        yield made
    finally:
        made.close()


def commit_frame(term: Term, lsn: int = 0) -> dict[str, int]:
    return {
        "magic": SHIP_MAGIC, "kind": FRAME_COMMIT, "body_bytes": 0, "term_epoch": term.epoch,
        "term_start": term.start, "commit_lsn": lsn, "as_of_lsn": 0,
    }  # fmt: skip


def frame(term: Term, kind: int, *, commit: int = 0, as_of: int = 0) -> dict[str, int]:
    return commit_frame(term, commit) | {"kind": kind, "as_of_lsn": as_of}


def checked(layout: Layout, values: Mapping[str, Value], field: str = "check") -> bytes:
    """The head of a body with its checksum, padded to a page."""
    sum_of_it = crc32c(layout.pack({**values, field: 0}))
    return layout.pack({**values, field: sum_of_it}).ljust(PAGE_BYTES, b"\0")


def ack(term: Term, lsn: int) -> dict[str, int]:
    return {
        "magic": ACK_MAGIC, "term_epoch": term.epoch, "term_start": term.start, "durable_lsn": lsn,
        "applied_lsn": 0, "base_marks": 0, "headroom_pages": 1 << 30, "flags": 0,
    }  # fmt: skip


async def take_batches(
    peer: Link, lsn: int, *, bytes_min: int = 0, until_lsn: int = 0
) -> tuple[int, int]:
    """Read on until so many bytes of the log, or so far, came; the LSN reached and the bytes."""
    got = 0
    while got < bytes_min or lsn < until_lsn:
        frame, body = await peer.read_frame()
        if frame.number("kind") == FRAME_BATCH:
            batch = BATCH.unpack(body[: BATCH.size])
            assert batch.number("first_lsn") == lsn + 1
            lsn += batch.number("entry_count")
            got += len(body)
    return lsn, got
