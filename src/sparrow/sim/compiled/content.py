"""What pages hold that are written in a simulation: their number and a value, all over."""

from __future__ import annotations

import struct

from sparrow.base.constants import PAGE_BYTES


def page_of(page: int, value: int) -> bytes:
    """The content that this value has in this page."""
    return struct.pack("<QQ", page, value) * (PAGE_BYTES // 16)


def value_of(page: int, data: bytes) -> int | None:
    """Which value a page, or half of one, holds, 0 for zeros; None for anything nobody wrote."""
    value = int.from_bytes(data[8:16], "little")
    if data == page_of(page, value)[: len(data)]:
        return value
    return None if any(data) else 0
