"""The other end of a grant link, spoken by hand: it asks, gives back and grants what a test says, when it says so."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sparrow.authority.types import Term
from sparrow.base.ids import VolumeId
from sparrow.dataplane.files.superblock import volume_key
from sparrow.formats.crc32c import crc32c
from sparrow.formats.layout import Layout, Record
from sparrow.formats.links import (
    ASK_GRANT,
    ASK_LINKED,
    GRANT_ASK,
    GRANT_ASK_MAGIC,
    GRANT_ENTRY,
    GRANT_RELEASE,
    GRANT_RELEASE_MAGIC,
    GRANT_REPLY,
    GRANT_REPLY_MAGIC,
    GRANT_VERDICT,
    VERDICT_FOLLOWS,
    VERDICT_GRANTED,
)

WAIT_S: Final = 30.0
GRANTED_MS: Final = 1000
#: Whoever grants again and again holds a gate open although the machine stands still between two asks.
CALM_GRANTED_MS: Final = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request for grants, as it came."""

    stamp: int
    head: Record
    entries: tuple[Record, ...]


class GrantPeer:
    """Speaks one volume's grants over its end of a socket pair; ``theirs`` is for the core."""

    def __init__(self, volume: VolumeId) -> None:
        self._key = volume_key(volume)
        self._socket, other = socket.socketpair()
        self._socket.settimeout(WAIT_S)
        other.setblocking(False)
        self.theirs = other.detach()

    def of(self, volume: VolumeId) -> GrantPeer:
        """The same link, speaking of another volume."""
        other = object.__new__(GrantPeer)
        other._key, other._socket, other.theirs = volume_key(volume), self._socket, self.theirs
        return other

    def close(self) -> None:
        self._socket.close()

    def end(self) -> None:
        """Whoever waits for something at this end is told that nothing comes any more."""
        self._socket.shutdown(socket.SHUT_RDWR)

    # as the one who asks

    def ask(self, term: Term, stamp: int, *, linked: bool = False) -> int:
        """The verdict on one ask. ``linked``: we say that we have a ship link to the other end."""
        return self._asked(term, stamp, linked=linked).number("verdict")

    def followed(self, term: Term, stamp: int, *, linked: bool) -> bool:
        """Whether the other end says that it has a ship link of this term."""
        return bool(self._asked(term, stamp, linked=linked).number("flags") & VERDICT_FOLLOWS)

    def _asked(self, term: Term, stamp: int, *, linked: bool) -> Record:
        entry = {
            "volume_key": self._key,
            "epoch": term.epoch,
            "start": term.start,
            "flags": ASK_GRANT | (ASK_LINKED if linked else 0),
        }
        self._send(GRANT_ASK_MAGIC, stamp, GRANT_ENTRY.pack(entry))
        self._take(GRANT_REPLY)
        return self._take(GRANT_VERDICT)

    def release(self, term: Term, stamp: int) -> None:
        """Give back everything this term asked for up to the stamp."""
        entry = {
            "volume_key": self._key,
            "epoch": term.epoch,
            "start": term.start,
            "stamp_boot_ns": stamp,
        }
        self._send(GRANT_RELEASE_MAGIC, 0, GRANT_RELEASE.pack(entry))

    def _send(self, magic: int, stamp: int, entries: bytes) -> None:
        head = {
            "magic": magic,
            "count": 1,
            "stamp_boot_ns": stamp,
            "stamp_raw_ns": stamp,
            "check": 0,
        }
        head["check"] = crc32c(GRANT_ASK.pack(head) + entries)
        self._socket.sendall(GRANT_ASK.pack(head) + entries)

    # as the one who grants

    def asked(self) -> Asked:
        """The next ask; releases that come before it are passed over."""
        while True:
            head = self._take(GRANT_ASK)
            kind = GRANT_ENTRY if head.number("magic") == GRANT_ASK_MAGIC else GRANT_RELEASE
            entries = tuple(self._take(kind) for _ in range(head.number("count")))
            if kind is GRANT_ENTRY:
                return Asked(stamp=head.number("stamp_boot_ns"), head=head, entries=entries)

    def grant(self, asked: Asked, *, granted_ms: int = GRANTED_MS, follows: bool = True) -> None:
        """Grant everything that was asked for. ``follows``: we say that we have the ship links."""
        verdicts = b"".join(
            GRANT_VERDICT.pack(
                {
                    "volume_key": entry.number("volume_key"),
                    "verdict": VERDICT_GRANTED,
                    "flags": VERDICT_FOLLOWS if follows else 0,
                    "promised_epoch": entry.number("epoch"),
                }
            )
            for entry in asked.entries
        )
        head = {
            "magic": GRANT_REPLY_MAGIC,
            "count": len(asked.entries),
            "stamp_boot_ns": asked.stamp,
            "stamp_raw_ns": asked.head.number("stamp_raw_ns"),
            "granted_ms": granted_ms,
            "check": 0,
        }
        head["check"] = crc32c(GRANT_REPLY.pack(head) + verdicts)
        self._socket.sendall(GRANT_REPLY.pack(head) + verdicts)

    def _take(self, layout: Layout) -> Record:
        data = b""
        while len(data) < layout.size:
            piece = self._socket.recv(layout.size - len(data))
            assert piece, "the core closed the link"
            data += piece
        return layout.unpack(data)


@contextlib.contextmanager
def granting(peer: GrantPeer, *, granted_ms: int = CALM_GRANTED_MS) -> Iterator[None]:
    """Grants whatever is asked, on a thread, until the end of the block."""

    def answer() -> None:
        with contextlib.suppress(OSError, AssertionError):
            while True:
                peer.grant(peer.asked(), granted_ms=granted_ms)

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    try:
        yield
    finally:
        peer.end()
        thread.join(WAIT_S)
        peer.close()
