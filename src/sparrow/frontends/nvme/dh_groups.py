"""The finite-field groups of RFC 7919, computed from their definition and named as DH-HMAC-CHAP does.

    p = 2^b - 2^(b - 64) + (floor(2^(b - 130) * e) + x) * 2^64 - 1,    g = 2

Source: RFC 7919, appendix A (x of each group); NVMe base 2.0, 8.13.5.3 (identifiers).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Final

GENERATOR: Final = 2
#: Identifier: (bits, x, bits of a private exponent: twice the strength that the RFC gives the group).
_GROUPS: Final = {
    1: (2048, 560316, 225),
    2: (3072, 2625351, 275),
    3: (4096, 5736041, 325),
}


@dataclass(frozen=True, slots=True)
class DhGroup:
    """One group; ``size`` is the bytes of its numbers on the wire."""

    prime: int
    size: int
    exponent_bytes: int

    def public(self, private: int) -> bytes:
        return pow(GENERATOR, private, self.prime).to_bytes(self.size, "big")

    def shared(self, private: int, other: bytes) -> bytes | None:
        """The shared secret; None for a value that no honest peer sends (RFC 7919, 5.1)."""
        value = int.from_bytes(other, "big")
        if len(other) != self.size or not 1 < value < self.prime - 1:
            return None
        return pow(value, private, self.prime).to_bytes(self.size, "big")


@functools.cache
def dh_group(identifier: int) -> DhGroup | None:
    """The group of an identifier, or None when it is not offered here."""
    if identifier not in _GROUPS:
        return None
    bits, addend, exponent_bits = _GROUPS[identifier]
    prime = 2**bits - 2 ** (bits - 64) + (_e_scaled(bits - 130) + addend) * 2**64 - 1
    return DhGroup(prime=prime, size=bits // 8, exponent_bytes=-(-exponent_bits // 8))


def _e_scaled(bits: int) -> int:
    """floor(2^bits * e): the series with enough guard bits that its error does not reach the last one."""
    guard = 64
    term = total = 1 << (bits + guard)
    divisor = 1
    while term:
        term //= divisor
        total += term
        divisor += 1
    return total >> guard
