"""From good conversations to bad ones: the same seed and number give the same bytes, on any machine.

A corpus file holds one conversation, in lines of hexadecimal digits; what follows a # is for the reader.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

CORPUS: Final = Path(__file__).parent / "corpus"
#: No mutation makes an input longer than this.
INPUT_BYTES_MAX: Final = 65536
#: Numbers at which lengths and offsets go wrong.
EDGES: Final = (
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    47,
    48,
    255,
    256,
    511,
    512,
    4095,
    4096,
    65535,
    65536,
    1 << 20,
    1 << 24,
    1 << 25,
)
FAR: Final = (0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)


def parse(text: str) -> bytes:
    """The bytes of a corpus file."""
    return bytes.fromhex("".join(line.partition("#")[0] for line in text.splitlines()))


def corpus(target: str) -> tuple[bytes, ...]:
    """Every conversation kept for a target, by name of its file."""
    return tuple(parse(path.read_text()) for path in sorted((CORPUS / target).glob("*.hex")))


def input_of(target: str, seeds: tuple[bytes, ...], seed: int, number: int) -> bytes:
    """Input ``number`` of this seed; the first ones are the corpus itself."""
    if number < len(seeds):
        return seeds[number]
    dice = random.Random(f"{target}/{seed}/{number}")
    data = bytearray(dice.choice(seeds))
    for _ in range(dice.choice((1, 1, 2, 3, 5, 8))):
        dice.choice(MUTATIONS)(data, dice, seeds)
    return bytes(data[:INPUT_BYTES_MAX])


def chunks_of(target: str, data: bytes, seed: int, number: int) -> list[bytes]:
    """The input cut as a network might: whole, byte by byte, or anyhow."""
    dice = random.Random(f"{target}/{seed}/{number}/chunks")
    how = dice.random()
    if how < 0.4:
        return [data]
    if how < 0.5 and len(data) < 4096:
        return [data[at : at + 1] for at in range(len(data))]
    pieces = []
    at = 0
    while at < len(data):
        size = dice.choice((1, 3, 28, 48, 100, 1000, 20000))
        pieces.append(data[at : at + size])
        at += size
    return pieces


def _at(data: bytearray, dice: random.Random) -> int:
    return dice.randrange(len(data)) if data else 0


def _flip(data: bytearray, dice: random.Random, _seeds: tuple[bytes, ...]) -> None:
    if data:
        data[_at(data, dice)] ^= 1 << dice.randrange(8)


def _byte(data: bytearray, dice: random.Random, _seeds: tuple[bytes, ...]) -> None:
    if data:
        data[_at(data, dice)] = dice.choice((0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)))


def _number(data: bytearray, dice: random.Random, _seeds: tuple[bytes, ...]) -> None:
    """A big-endian number at the edge of something, where a length might be."""
    size = dice.choice((2, 3, 4, 8))
    value = dice.choice(EDGES + FAR) + dice.choice((0, 0, 1, -1))
    at = _at(data, dice) // 2 * 2
    data[at : at + size] = (value % (1 << 8 * size)).to_bytes(size, "big")


def _drop(data: bytearray, dice: random.Random, _seeds: tuple[bytes, ...]) -> None:
    at = _at(data, dice)
    del data[at : at + dice.choice((1, 2, 4, 16, 48, 1000))]


def _double(data: bytearray, dice: random.Random, _seeds: tuple[bytes, ...]) -> None:
    at = _at(data, dice)
    data[at:at] = data[at : at + dice.choice((1, 4, 28, 48, 500))]


def _insert(data: bytearray, dice: random.Random, _seeds: tuple[bytes, ...]) -> None:
    at = _at(data, dice)
    data[at:at] = dice.randbytes(dice.choice((1, 2, 8, 48)))


def _cut(data: bytearray, dice: random.Random, _seeds: tuple[bytes, ...]) -> None:
    del data[_at(data, dice) :]


def _splice(data: bytearray, dice: random.Random, seeds: tuple[bytes, ...]) -> None:
    """The beginning of one conversation, the end of another."""
    other = dice.choice(seeds)
    at = dice.randrange(len(other) + 1)
    data[_at(data, dice) :] = other[at:]


Mutation = Callable[[bytearray, random.Random, tuple[bytes, ...]], None]
MUTATIONS: Final[tuple[Mutation, ...]] = (
    *(_flip, _flip, _byte, _byte, _number, _number, _number),
    *(_drop, _double, _insert, _cut, _splice),
)
