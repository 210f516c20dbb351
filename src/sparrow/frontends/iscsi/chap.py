"""CHAP and mutual CHAP: the initiator proves a secret, and we prove another one when it asks.

    initiator                       target
    CHAP_A=<algorithms>             CHAP_A=<one> CHAP_I=<id> CHAP_C=<challenge>
    CHAP_N=<name> CHAP_R=<answer>   nothing, or, when CHAP_I and CHAP_C came too,
                                    CHAP_N=<our name> CHAP_R=<our answer>

CHAP_N is the name of the secret. The answer is hash(id, secret, challenge). It is compared in constant time, and an
unknown name costs as much as a wrong answer and is told the same.

Reflection: whoever knows no secret could open two logins and have us answer our own challenge. So the two directions
never share a secret (``lifecycle.access``), and a challenge that is our own is refused.

Source: RFC 7143, 12.1.3 and 9.2.1; RFC 1994; algorithms 7 and 8: IANA, "PPP Authentication Algorithms".
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from typing import Final

from sparrow.base.access import Secret
from sparrow.frontends.access import Admitted
from sparrow.frontends.iscsi.errors import LoginRejected, LoginStatus
from sparrow.frontends.iscsi.keys import Pair, parse_number
from sparrow.frontends.iscsi.security import SecurityStep

#: By number; SHA-1 (6) is left out: whoever can do it can do MD5, which the standard demands, or better.
ALGORITHMS: Final = {"5": "md5", "7": "sha256", "8": "sha3_256"}
CHALLENGE_BYTES_MAX: Final = 1024
_BINARY: Final = re.compile(r"0[xX](?P<hex>[0-9A-Fa-f]+)|0[bB](?P<base64>[A-Za-z0-9+/]+={0,2})")
#: Hashed where no such name is known.
_NOBODY: Final = Secret(name="", value=bytes(16))


class Chap:
    """The method CHAP of one target (or of discovery) for one initiator.

    Args:
        admitted: what may be proven, each with a secret; one of a target, several in discovery.
        random_bytes: gives so many unpredictable bytes.
    """

    name = "CHAP"

    def __init__(
        self, admitted: Sequence[Admitted], *, random_bytes: Callable[[int], bytes]
    ) -> None:
        assert all(one.secret is not None for one in admitted)
        self._admitted = tuple(admitted)
        self._random_bytes = random_bytes

    def start(self, initiator_name: str) -> ChapExchange:
        del initiator_name  # ``admitted`` was chosen by it
        return ChapExchange(self._admitted, self._random_bytes)


class ChapExchange:
    """One run of it."""

    def __init__(
        self, admitted: tuple[Admitted, ...], random_bytes: Callable[[int], bytes]
    ) -> None:
        self._admitted = admitted
        self._random_bytes = random_bytes
        self._algorithm = ""
        self._identifier = 0
        self._challenge = b""
        self._complete = False

    def step(self, pairs: Sequence[Pair]) -> SecurityStep:
        """Judge the keys of one request. Raises: LoginRejected."""
        keys = dict(pairs)
        if not keys:
            # The request that settled AuthMethod, or the one that leaves the stage.
            return SecurityStep(complete=self._complete)
        if self._complete:
            raise _broken("keys after the authentication was over")
        if not self._algorithm:
            return self._begin(keys)
        return self._judge(keys)

    def _begin(self, keys: dict[str, str]) -> SecurityStep:
        if set(keys) != {"CHAP_A"}:
            raise _broken("CHAP does not begin with CHAP_A")
        known = [one for one in keys["CHAP_A"].split(",") if one in ALGORITHMS]
        if not known:
            raise LoginRejected(
                LoginStatus.AUTHENTICATION_FAILURE, "none of the CHAP algorithms is accepted"
            )
        self._algorithm = ALGORITHMS[known[0]]
        self._identifier = self._random_bytes(1)[0]
        self._challenge = self._random_bytes(hashlib.new(self._algorithm).digest_size)
        return SecurityStep(
            answers=(
                ("CHAP_A", known[0]),
                ("CHAP_I", str(self._identifier)),
                ("CHAP_C", "0x" + self._challenge.hex()),
            )
        )

    def _judge(self, keys: dict[str, str]) -> SecurityStep:
        mutual = {"CHAP_I", "CHAP_C"}
        if set(keys) not in ({"CHAP_N", "CHAP_R"}, {"CHAP_N", "CHAP_R"} | mutual):
            raise _broken("CHAP_N and CHAP_R are needed, and only CHAP_I and CHAP_C beside them")
        found = next(
            (one for one in self._admitted if one.secret and one.secret.name == keys["CHAP_N"]),
            None,
        )
        secret = found.secret if found is not None and found.secret is not None else _NOBODY
        wanted = self._answer(self._identifier, secret, self._challenge)
        good = hmac.compare_digest(wanted, _decode_binary(keys["CHAP_R"], len(wanted)))
        if found is None or not good:
            raise LoginRejected(LoginStatus.AUTHENTICATION_FAILURE, "the CHAP response is wrong")
        self._complete = True
        if not mutual <= set(keys):
            return SecurityStep(complete=True)
        return SecurityStep(answers=self._prove(found, keys), complete=True)

    def _prove(self, admitted: Admitted, keys: dict[str, str]) -> tuple[Pair, ...]:
        """Our own answer to the initiator's challenge."""
        challenge = _decode_binary(keys["CHAP_C"], CHALLENGE_BYTES_MAX)
        if hmac.compare_digest(challenge, self._challenge):
            raise LoginRejected(
                LoginStatus.AUTHENTICATION_FAILURE, "our own challenge was sent back to us"
            )
        identifier = parse_number(keys["CHAP_I"])
        if identifier is None or identifier > 0xFF:
            raise _broken("CHAP_I is no number of one byte")
        if admitted.target_secret is None:
            raise LoginRejected(
                LoginStatus.AUTHENTICATION_FAILURE,
                "mutual authentication was asked for and there is no secret for it",
            )
        answer = self._answer(identifier, admitted.target_secret, challenge)
        return (("CHAP_N", admitted.target_secret.name), ("CHAP_R", "0x" + answer.hex()))

    def _answer(self, identifier: int, secret: Secret, challenge: bytes) -> bytes:
        return hashlib.new(self._algorithm, bytes([identifier]) + secret.value + challenge).digest()


def _decode_binary(text: str, bytes_max: int) -> bytes:
    """A binary value in hex or base64. Source: RFC 7143, 6.1. Raises: LoginRejected."""
    match = _BINARY.fullmatch(text)
    value = b""
    if match is not None and match["hex"] is not None:
        digits = match["hex"]
        value = bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
    elif match is not None:
        try:
            value = base64.b64decode(match["base64"], validate=True)
        except binascii.Error:
            match = None
    if match is None or not 0 < len(value) <= bytes_max:
        raise _broken("a value of CHAP is no binary value, or too long")
    return value


def _broken(what: str) -> LoginRejected:
    return LoginRejected(LoginStatus.INITIATOR_ERROR, what)
