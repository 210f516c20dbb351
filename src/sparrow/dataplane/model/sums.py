"""Blocks of checksums of the model twin, in the layout of ``formats.sums``."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Set

from sparrow.formats.sums import PAGE_DATA, PAGE_HOLE, PAGE_LOST, PAGES_PER_BLOCK, SUMS_BLOCK


def encode_sums(view: Mapping[int, bytes], block: int, lost: Set[int]) -> bytes:
    """What ``mend_sums`` of another twin takes."""
    first = block * PAGES_PER_BLOCK
    states = bytearray(PAGES_PER_BLOCK // 4)
    sums = [0] * PAGES_PER_BLOCK
    for index in range(PAGES_PER_BLOCK):
        page = first + index
        state = PAGE_LOST if page in lost else PAGE_DATA if page in view else PAGE_HOLE
        states[index // 4] |= state << (2 * (index % 4))
        if state == PAGE_DATA:
            sums[index] = zlib.crc32(view[page])
    return SUMS_BLOCK.pack(
        {
            "check": 0,
            "format": 1,
            "block": block,
            "states": bytes(states),
            "sums": tuple(sums),
        }
    )


def sums_known(image: bytes) -> Iterator[int]:
    """Indices of the pages of which the block says something."""
    at = SUMS_BLOCK.offset_of("states")
    for index in range(PAGES_PER_BLOCK):
        if image[at + index // 4] >> (2 * (index % 4)) & 3 != PAGE_LOST:
            yield index
