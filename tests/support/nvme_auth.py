"""A host's side of DH-HMAC-CHAP, written from the standard and apart from the product's."""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

# Source: RFC 7919, A.1: the prime of ffdhe2048.
FFDHE2048: Final = int(
    "FFFFFFFFFFFFFFFFADF85458A2BB4A9AAFDC5620273D3CF1D8B9C583CE2D3695A9E13641146433FBCC939DCE249B3EF97D2FE363630C75D8"
    "F681B202AEC4617AD3DF1ED5D5FD65612433F51F5F066ED0856365553DED1AF3B557135E7F57C935984F0C70E0E68B77E2A689DAF3EFE872"
    "1DF158A136ADE73530ACCA4F483A797ABC0AB182B324FB61D108A94BB2C8E3FBB96ADAB760D7F4681D4F42A3DE394DF4AE56EDE76372BB19"
    "0B07A7C8EE0A6D709E02FCE1CDF7E2ECC03404CD28342F619172FE9CE98583FF8E4F1232EEF28183C3FE3B1B4C6FAD733BB5FCBC2EC22005"
    "C58EF1837D1683B2C6F34A26C1B2EFFA886B423861285C97FFFFFFFFFFFFFFFF",
    16,
)
HASHES: Final = {1: "sha256", 2: "sha384", 3: "sha512"}


class Unproven(Exception):
    """The controller says no (its reason code), or did not prove itself."""


def auth_entry(cid: int, fctype: int, length: int, *, secp: int = 0xE9) -> bytes:
    """Authentication Send (5) or Receive (6)."""
    sgl = 0x01 if fctype == 5 else 0x5A
    return struct.pack(
        "<BBHB19xQI3xBxBBBI16x", 0x7F, 0x40, cid, fctype, 0, length, sgl, 1, 1, secp, length
    )


class HostSide:
    """One exchange. ``asks`` is the key the controller has to prove; ``wrong`` spoils our own answer."""

    def __init__(
        self,
        key: bytes,
        host: str,
        subsystem: str,
        *,
        asks: bytes = b"",
        hashes: tuple[int, ...] = (1, 2, 3),
        groups: tuple[int, ...] = (0, 1),
        transaction: int = 77,
        concatenation: int = 0,
    ) -> None:
        self._key = key
        self._asks = asks
        self._names = (host.encode(), subsystem.encode())
        self._hashes = hashes
        self._groups = groups
        self._transaction = transaction
        self._concatenation = concatenation
        self._challenge = b""
        self._sequence = 5
        self._session = b""
        self.group = -1
        self.hash = ""

    def negotiate(self) -> bytes:
        head = struct.pack("<BBHHBB", 0, 0, 0, self._transaction, self._concatenation, 1)
        lists = bytes(self._hashes).ljust(30, b"\0") + bytes(self._groups).ljust(30, b"\0")
        return head + struct.pack("<BBBB", 1, 0, len(self._hashes), len(self._groups)) + lists

    def reply(self, challenge: bytes) -> bytes:
        if challenge[:2] == b"\0\xf1":
            raise Unproven(challenge[7])
        kind, identifier, _, transaction, size, _, hash_id, group, public, sequence = struct.unpack(
            "<BBHHBBBBHI", challenge[:16]
        )
        assert (kind, identifier, transaction) == (1, 1, self._transaction)
        self.hash, self.group = HASHES[hash_id], group
        assert size == hashlib.new(self.hash).digest_size
        theirs, value = challenge[16 : 16 + size], challenge[16 + size :]
        assert len(value) == public
        own = b""
        if group:
            private = 0x1234567890ABCDEF
            own = pow(2, private, FFDHE2048).to_bytes(256, "big")
            shared = pow(int.from_bytes(value, "big"), private, FFDHE2048).to_bytes(256, "big")
            self._session = hashlib.new(self.hash, shared).digest()
        answer = self._proof(self._key, theirs, sequence, b"HostHost", self._names)
        self._challenge = bytes(range(size)) if self._asks else bytes(size)
        head = struct.pack(
            "<BBHHBBBBHI", 1, 2, 0, transaction, size, 0, 1 if self._asks else 0, 0, len(own),
            self._sequence if self._asks else 0,
        )  # fmt: skip
        return head + answer + self._challenge + own

    def finish(self, outcome: bytes) -> bytes:
        """What is still to be sent. Raises: Unproven."""
        if outcome[:2] == b"\0\xf1":
            raise Unproven(outcome[7])
        assert outcome[:2] == b"\1\3"
        if not self._asks:
            assert outcome[8] == 0
            return b""
        wanted = self._proof(
            self._asks, self._challenge, self._sequence, b"Controller", self._names[::-1]
        )
        if outcome[8] != 1 or outcome[16:] != wanted:
            raise Unproven("the controller")
        return struct.pack("<BBHH10x", 1, 4, 0, self._transaction)

    def _proof(
        self, key: bytes, challenge: bytes, sequence: int, role: bytes, names: tuple[bytes, ...]
    ) -> bytes:
        if self.group:
            challenge = hmac.new(self._session, challenge, self.hash).digest()
        text = challenge + struct.pack("<IHB", sequence, self._transaction, 0) + role
        return hmac.new(key, text + names[0] + b"\0" + names[1], self.hash).digest()
