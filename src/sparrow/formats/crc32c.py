"""CRC32C (Castagnoli) in plain Python: for tools, tests and rare single pages; the core has the fast one.

Source: RFC 3720, appendix B.4; polynomial 0x1EDC6F41, reflected 0x82F63B78.
"""

from __future__ import annotations

from typing import Final


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        rows.append(value)
    return tuple(rows)


TABLE: Final = _table()


def crc32c(data: bytes | bytearray | memoryview, value: int = 0) -> int:
    """Checksum of ``data``, continuing from the checksum ``value`` of what came before it."""
    value ^= 0xFFFFFFFF
    for byte in bytes(data):
        value = TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    return value ^ 0xFFFFFFFF
