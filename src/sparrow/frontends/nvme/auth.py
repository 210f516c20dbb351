"""DH-HMAC-CHAP: the host proves a secret on each queue, and we prove another one when it asks.

    host                            controller
    Negotiate: hashes, groups  ->
                               <-   Challenge: hash, group, C1, S1, g^x
    Reply: R1, C2, S2, g^y     ->
                               <-   Success1: R2        or Failure1
    Success2, when it asked    ->

R1 = HMAC(K_host, Ca1 | S1 | T | 0 | "HostHost" | NQN_host | 0 | NQN_subsystem), and R2 the same with our key, the word
"Controller" and the names turned round. Ca is the challenge itself, or HMAC(H(shared secret), challenge) with a group.
Answers are compared in constant time. A challenge that is our own is refused: whoever knows no secret could have us
answer it elsewhere, and the two directions never share a secret (``lifecycle.access``).

A secret is the text of NVMe base 2.0, 8.13.5.8, as `nvme gen-dhchap-key` prints it (``DHHC-1:...``); anything else is
taken as the key itself.

Source: NVMe base 2.0, 8.13.5; figures 444 to 455 of its messages.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from sparrow.base.access import Secret
from sparrow.formats import nvme
from sparrow.frontends.nvme.connection import Command
from sparrow.frontends.nvme.dh_groups import DhGroup, dh_group
from sparrow.frontends.nvme.status import CommandRefused, Status

#: SECP, SPSP0 and SPSP1 of Authentication Send and Receive.
PROTOCOL: Final = (0xE9, 0x01, 0x01)
#: By identifier; the strongest first, as it is chosen.
HASHES: Final = {3: "sha512", 2: "sha384", 1: "sha256"}
_GROUPS_BY_CHOICE: Final = (1, 2, 3, 0)
_DHCHAP: Final = 1
_COMMON_TYPE, _DHCHAP_TYPE = 0x00, 0x01
_NEGOTIATE, _CHALLENGE, _REPLY, _SUCCESS1, _SUCCESS2 = 0x00, 0x01, 0x02, 0x03, 0x04
_FAILURE1, _FAILURE2 = 0xF1, 0xF0
_DESCRIPTOR: Final = 64
_KEY_MARK: Final = b"NVMe-over-Fabrics"


class Failure(Enum):
    """Reason codes of Failure1. Source: NVMe base 2.0, 8.13.5.7."""

    AUTHENTICATION = 1
    PROTOCOL = 2
    CONCATENATION = 3
    HASH = 4
    GROUP = 5
    PAYLOAD = 6
    MESSAGE = 7


class _Fails(Exception):
    def __init__(self, reason: Failure) -> None:
        super().__init__(reason.name)
        self.reason = reason


class _Next(Enum):
    """What the host is to do now."""

    NEGOTIATE = "send"
    CHALLENGE = "receive the challenge"
    REPLY = "send the reply"
    SUCCESS1 = "receive the outcome"
    SUCCESS2 = "send success"
    FAILURE1 = "receive the failure"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Names:
    """Of the two sides of one queue."""

    host: str
    subsystem: str


class Authentication:
    """One exchange on one queue. ``done`` or ``failed`` is set by its last message.

    Args:
        secret: what the host must prove.
        target_secret: what we prove when it asks; None: then it may not ask.
        random_bytes: gives so many unpredictable bytes.
    """

    def __init__(
        self,
        names: Names,
        *,
        secret: Secret,
        target_secret: Secret | None,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._names = names
        self._secret = secret
        self._target_secret = target_secret
        self._random_bytes = random_bytes
        self._next = _Next.NEGOTIATE
        self._reason = Failure.MESSAGE
        self._transaction = 0
        self._hash = ""
        self._hash_id = 0
        self._group_id = 0
        self._group: DhGroup | None = None
        self._private = 0
        self._challenge = b""
        self._sequence = 0
        self._answer: bytes | None = None
        self.done = False
        self.failed = False

    # ------------------------------------------------------------ commands

    def execute(self, command: Command) -> bytes:
        """One command of a queue that is not authenticated yet; the data of its answer. Raises: CommandRefused."""
        entry = nvme.NVME_AUTH.unpack(command.sqe)
        if not command.is_fabrics or command.fctype not in (
            nvme.NVME_FABRICS_AUTH_SEND,
            nvme.NVME_FABRICS_AUTH_RECEIVE,
        ):
            raise CommandRefused(Status.AUTHENTICATION_REQUIRED)
        if tuple(entry.number(name) for name in ("secp", "spsp0", "spsp1")) != PROTOCOL:
            raise CommandRefused(Status.INVALID_FIELD)
        if command.fctype == nvme.NVME_FABRICS_AUTH_RECEIVE:
            return self.receive(min(entry.number("length"), command.sgl_length))
        if entry.number("length") != len(command.data):
            raise CommandRefused(Status.INVALID_FIELD)
        self.send(command.data)
        return b""

    def send(self, message: bytes) -> None:
        """Authentication Send. What is wrong with a message is told by the next receive. Raises: CommandRefused."""
        if self._next not in (_Next.NEGOTIATE, _Next.REPLY, _Next.SUCCESS2):
            raise CommandRefused(Status.SEQUENCE)
        try:
            self._take(message)
        except _Fails as failure:
            self._reason = failure.reason
            self._next = _Next.FAILURE1

    def receive(self, length: int) -> bytes:
        """Authentication Receive. Raises: CommandRefused (out of turn, or no room for the message)."""
        if self._next is _Next.CHALLENGE:
            message, after = self._make_challenge(), _Next.REPLY
        elif self._next is _Next.SUCCESS1:
            message = self._make_success()
            after = _Next.NOTHING if self._answer is None else _Next.SUCCESS2
        elif self._next is _Next.FAILURE1:
            message = struct.pack(
                "<BBHHBB", _COMMON_TYPE, _FAILURE1, 0, self._transaction, 1, self._reason.value
            )
            after = _Next.NOTHING
        else:
            raise CommandRefused(Status.SEQUENCE)
        if len(message) > length:
            raise CommandRefused(Status.INVALID_FIELD)
        self.failed = self._next is _Next.FAILURE1
        self.done = after is _Next.NOTHING and not self.failed
        self._next = after
        return message

    # ------------------------------------------------------------ messages of the host

    def _take(self, message: bytes) -> None:
        if len(message) < 8:
            raise _Fails(Failure.PAYLOAD)
        kind, identifier, _, transaction = struct.unpack_from("<BBHH", message)
        if (kind, identifier) == (_COMMON_TYPE, _FAILURE2):
            self.failed = True
            self._next = _Next.NOTHING
        elif self._next is _Next.NEGOTIATE and (kind, identifier) == (_COMMON_TYPE, _NEGOTIATE):
            self._transaction = transaction
            self._negotiate(message)
        elif transaction != self._transaction or kind != _DHCHAP_TYPE:
            raise _Fails(Failure.MESSAGE)
        elif self._next is _Next.REPLY and identifier == _REPLY:
            self._check_reply(message)
        elif self._next is _Next.SUCCESS2 and identifier == _SUCCESS2:
            self.done = True
            self._next = _Next.NOTHING
        else:
            raise _Fails(Failure.MESSAGE)

    def _negotiate(self, message: bytes) -> None:
        concatenation, count = message[6], message[7]
        if concatenation != 0:
            raise _Fails(Failure.CONCATENATION)
        if len(message) < 8 + _DESCRIPTOR * count:
            raise _Fails(Failure.PAYLOAD)
        for at in range(8, 8 + _DESCRIPTOR * count, _DESCRIPTOR):
            if message[at] == _DHCHAP:
                break
        else:
            raise _Fails(Failure.PROTOCOL)
        hash_count, group_count = message[at + 2], message[at + 3]
        if hash_count > 30 or group_count > 30:
            raise _Fails(Failure.PAYLOAD)
        hashes = message[at + 4 : at + 4 + hash_count]
        groups = message[at + 34 : at + 34 + group_count]
        self._hash_id = next((one for one in HASHES if one in hashes), 0)
        if not self._hash_id:
            raise _Fails(Failure.HASH)
        self._hash = HASHES[self._hash_id]
        chosen = next((one for one in _GROUPS_BY_CHOICE if one in groups), None)
        if chosen is None:
            raise _Fails(Failure.GROUP)
        self._group_id, self._group = chosen, dh_group(chosen)
        self._next = _Next.CHALLENGE

    def _check_reply(self, message: bytes) -> None:
        if len(message) < 16:
            raise _Fails(Failure.PAYLOAD)
        size, asks, public_size = message[6], message[8], int.from_bytes(message[10:12], "little")
        (sequence,) = struct.unpack_from("<I", message, 12)
        if (
            size != hashlib.new(self._hash).digest_size
            or len(message) < 16 + 2 * size + public_size
        ):
            raise _Fails(Failure.PAYLOAD)
        told = message[16 : 16 + size]
        challenge = message[16 + size : 16 + 2 * size]
        session = self._session_key(message[16 + 2 * size : 16 + 2 * size + public_size])
        names = self._names
        key = host_key(self._secret, names.host)
        roles = (b"HostHost", names.host, names.subsystem)
        wanted = self._proof(key, self._augmented(session, self._challenge), self._sequence, roles)
        if not hmac.compare_digest(told, wanted):
            raise _Fails(Failure.AUTHENTICATION)
        if asks:
            if self._target_secret is None or challenge == self._challenge or sequence == 0:
                raise _Fails(Failure.AUTHENTICATION)
            key = host_key(self._target_secret, names.subsystem)
            roles = (b"Controller", names.subsystem, names.host)
            self._answer = self._proof(key, self._augmented(session, challenge), sequence, roles)
        self._next = _Next.SUCCESS1

    # ------------------------------------------------------------ messages of ours

    def _make_challenge(self) -> bytes:
        size = hashlib.new(self._hash).digest_size
        if not self._challenge:
            self._challenge = self._random_bytes(size)
            self._sequence = int.from_bytes(self._random_bytes(4), "little") or 1
            if self._group is not None:
                # Never a small one: the lowest bit set keeps it from being zero.
                self._private = int.from_bytes(self._random_bytes(self._group.exponent_bytes)) | 1
        public = b"" if self._group is None else self._group.public(self._private)
        head = struct.pack(
            "<BBHHBBBBHI", _DHCHAP_TYPE, _CHALLENGE, 0, self._transaction, size, 0,
            self._hash_id, self._group_id, len(public), self._sequence,
        )  # fmt: skip
        return head + self._challenge + public

    def _make_success(self) -> bytes:
        answer = self._answer
        size = hashlib.new(self._hash).digest_size
        head = struct.pack(
            "<BBHHBBB7x", _DHCHAP_TYPE, _SUCCESS1, 0, self._transaction, size, 0,
            0 if answer is None else 1,
        )  # fmt: skip
        return head + (answer or b"")

    # ------------------------------------------------------------ proofs

    def _session_key(self, public: bytes) -> bytes | None:
        """H(shared secret), None without a group."""
        if self._group is None:
            if public:
                raise _Fails(Failure.PAYLOAD)
            return None
        shared = self._group.shared(self._private, public)
        if shared is None:
            raise _Fails(Failure.PAYLOAD)
        return hashlib.new(self._hash, shared).digest()

    def _augmented(self, session: bytes | None, challenge: bytes) -> bytes:
        if session is None:
            return challenge
        return hmac.digest(session, challenge, self._hash)

    def _proof(
        self, key: bytes, challenge: bytes, sequence: int, roles: tuple[bytes, str, str]
    ) -> bytes:
        role, first, second = roles
        text = challenge + struct.pack("<IHB", sequence, self._transaction, 0) + role
        return hmac.digest(key, text + first.encode() + b"\0" + second.encode(), self._hash)


def host_key(secret: Secret, nqn: str) -> bytes:
    """The key of whoever has this NQN: the secret, transformed with the NQN when the secret says by which hash."""
    key, hash_id = read_secret(secret.value)
    if hash_id == 0:
        return key
    return hmac.digest(key, nqn.encode() + _KEY_MARK, HASHES[hash_id])


def read_secret(value: bytes) -> tuple[bytes, int]:
    """Key and hash identifier of a secret; what is not of the standard's form, or damaged, is a key without one."""
    parts = value.strip().split(b":")
    if len(parts) != 4 or parts[0] != b"DHHC-1" or parts[1] not in (b"00", b"01", b"02", b"03"):
        return value, 0
    try:
        decoded = base64.b64decode(parts[2], validate=True)
    except binascii.Error:
        return value, 0
    key, check = decoded[:-4], decoded[-4:]
    if len(key) not in (32, 48, 64) or zlib.crc32(key) != int.from_bytes(check, "little"):
        return value, 0
    return key, int(parts[1])
