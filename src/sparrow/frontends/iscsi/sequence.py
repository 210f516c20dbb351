"""Serial numbers of 32 bits that wrap: CmdSN and StatSN. Source: RFC 7143, 4.2.2 and RFC 1982."""

from __future__ import annotations

from typing import Final

_MODULUS: Final = 1 << 32
_HALF: Final = 1 << 31


def advance(number: int, by: int = 1) -> int:
    """The serial number ``by`` steps later (or earlier, when negative)."""
    return (number + by) % _MODULUS


def distance(start: int, end: int) -> int:
    """Signed steps from start to end, in [-2**31, 2**31)."""
    return (end - start + _HALF) % _MODULUS - _HALF
