"""Text of login and text negotiation: ``key=value`` pairs, each ended by a NUL, possibly cut over several PDUs.

A PDU with the C bit says that its text goes on in the next one; a pair may be cut anywhere, so text is decoded only
when it is whole. Everything a peer can make us hold is bounded: the bytes of one negotiation step, the number of
pairs, the length of a key. At a bound the text is refused.

Source: RFC 7143, 6.1 (text format), 6.2 (negotiation).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from sparrow.frontends.iscsi.errors import MalformedText

#: One key and its value, value possibly empty.
Pair = tuple[str, str]

KEY_BYTES_MAX: Final = 63
PAIRS_MAX: Final = 256
#: Text of one negotiation step over all its PDUs; the largest legal login is far below.
TEXT_BYTES_MAX: Final = 65536
#: Largest value of a numeric key: 2**64 - 1.
NUMBER_MAX: Final = (1 << 64) - 1

NOT_UNDERSTOOD: Final = "NotUnderstood"
IRRELEVANT: Final = "Irrelevant"
REJECT: Final = "Reject"
NONE: Final = "None"

_KEY: Final = re.compile(r"[A-Za-z][A-Za-z0-9.\-+@_#/]*")
_NUMBER: Final = re.compile(r"0[xX](?P<hex>[0-9A-Fa-f]{1,16})|(?P<dec>[0-9]{1,20})")


def decode_pairs(text: bytes) -> tuple[Pair, ...]:
    """Read the pairs of one whole text, in the order they stand.

    Empty strings between pairs are skipped: some initiators end their text with more than one NUL.

    Raises:
        MalformedText: no NUL at the end, no ``=``, a bad key, a key twice, bytes that are not UTF-8, too many pairs.
    """
    if not text:
        return ()
    if text[-1] != 0:
        raise MalformedText("the text does not end with a NUL")
    pairs: dict[str, str] = {}
    for segment in text[:-1].split(b"\0"):
        if not segment:
            continue
        try:
            key, equals, value = segment.decode("utf-8").partition("=")
        except UnicodeDecodeError:
            raise MalformedText("the text is not UTF-8") from None
        if not equals:
            raise MalformedText("a part of the text has no '='")
        if len(key) > KEY_BYTES_MAX or not _KEY.fullmatch(key):
            raise MalformedText(f"{key[:KEY_BYTES_MAX]!r} is no key")
        if key in pairs:
            raise MalformedText(f"{key} appears twice in one text")
        if len(pairs) == PAIRS_MAX:
            raise MalformedText(f"more than {PAIRS_MAX} keys in one text")
        pairs[key] = value
    return tuple(pairs.items())


def encode_pairs(pairs: Iterable[Pair]) -> bytes:
    """The text of these pairs; a key may repeat (TargetAddress does)."""
    out = bytearray()
    for key, value in pairs:
        assert "\0" not in key + value
        out += key.encode() + b"=" + value.encode() + b"\0"
    return bytes(out)


def parse_number(value: str) -> int | None:
    """A numeric value, decimal or hexadecimal; None when it is not one or exceeds 64 bits."""
    match = _NUMBER.fullmatch(value)
    if match is None:
        return None
    number = int(match["hex"], 16) if match["hex"] else int(match["dec"])
    return number if number <= NUMBER_MAX else None


def parse_bool(value: str) -> bool | None:
    """``Yes`` or ``No`` as the standard spells them, None for anything else."""
    return {"Yes": True, "No": False}.get(value)


def format_bool(value: bool) -> str:
    """``Yes`` or ``No``."""
    return "Yes" if value else "No"


class TextAssembler:
    """Joins the text of PDUs linked by the C bit."""

    def __init__(self, *, text_bytes_max: int = TEXT_BYTES_MAX) -> None:
        self._text_bytes_max = text_bytes_max
        self._text = bytearray()

    @property
    def partial(self) -> bool:
        """Whether text waits for its continuation."""
        return bool(self._text)

    def add(self, text: bytes, *, continued: bool) -> bytes | None:
        """Take the text of one PDU; gives the whole text when this PDU ended it, else None.

        Raises:
            MalformedText: the whole would exceed the bound.
        """
        if len(self._text) + len(text) > self._text_bytes_max:
            raise MalformedText(
                f"more than {self._text_bytes_max} bytes of text in one negotiation step"
            )
        self._text += text
        if continued:
            return None
        whole = bytes(self._text)
        self._text.clear()
        return whole


class TextSplitter:
    """Cuts one answer into data segments the peer can take; every segment but the last is sent with the C bit."""

    def __init__(self) -> None:
        self._rest = b""

    @property
    def pending(self) -> bool:
        """Whether segments are still to be sent."""
        return bool(self._rest)

    def load(self, text: bytes) -> None:
        """Start a new answer; the one before must be out."""
        assert not self._rest
        self._rest = text

    def next_segment(self, segment_bytes_max: int) -> bytes:
        """The next piece, at most this long; empty when nothing is left."""
        segment, self._rest = self._rest[:segment_bytes_max], self._rest[segment_bytes_max:]
        return segment
