"""CRC32C bit by bit, apart from the product's own."""

from __future__ import annotations


def crc32c(data: bytes, seed: int = 0) -> int:
    """As RFC 3720, B.4 describes it."""
    crc = ~seed & 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return ~crc & 0xFFFFFFFF
