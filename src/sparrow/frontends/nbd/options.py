"""The data of options, taken apart, and the replies to them, put together.

Every length is checked against the bytes that are there before anything is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sparrow.formats.nbd import (
    NBD_BLOCK_MAX,
    NBD_BLOCK_MIN,
    NBD_BLOCK_PREFERRED,
    NBD_BLOCK_SIZE_INFO,
    NBD_EXPORT_INFO,
    NBD_INFO_BLOCK_SIZE,
    NBD_INFO_DESCRIPTION,
    NBD_INFO_EXPORT,
    NBD_INFO_NAME,
    NBD_OPTION_REPLY,
    NBD_OPTION_REPLY_MAGIC,
    NBD_REP_INFO,
    NBD_REP_META_CONTEXT,
    NBD_REP_SERVER,
    NBD_STRING_BYTES_MAX,
)
from sparrow.frontends.nbd.errors import MalformedOption
from sparrow.frontends.nbd.exports import Export

#: Queries in one LIST_META_CONTEXT or SET_META_CONTEXT; there is one context to ask for.
QUERIES_MAX: Final = 32
#: Information requests in one INFO or GO; four kinds exist.
REQUESTS_MAX: Final = 256


class _Cursor:
    """Reads an option's data from front to back."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def take(self, count: int, what: str) -> bytes:
        left = len(self._data) - self._at
        if count > left:
            raise MalformedOption(f"{what} needs {count} bytes, {left} are left.")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int, what: str) -> int:
        return int.from_bytes(self.take(size, what), "big")

    def string(self, what: str) -> str:
        return text(self.take(self.number(4, f"length of the {what}"), what), what)

    def end(self) -> None:
        if self._at != len(self._data):
            raise MalformedOption(f"{len(self._data) - self._at} bytes too many.")


def text(data: bytes, what: str) -> str:
    """A string of the client's. Raises: MalformedOption."""
    if len(data) > NBD_STRING_BYTES_MAX:
        raise MalformedOption(f"The {what} is longer than {int(NBD_STRING_BYTES_MAX)} bytes.")
    try:
        decoded = data.decode()
    except UnicodeDecodeError:
        raise MalformedOption(f"The {what} is not UTF-8.") from None
    if "\0" in decoded:
        raise MalformedOption(f"The {what} has a NUL in it.")
    return decoded


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportChoice:
    """The data of INFO and GO."""

    name: str
    requests: frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextQuery:
    """The data of LIST_META_CONTEXT and SET_META_CONTEXT."""

    name: str
    queries: tuple[str, ...]


def decode_choice(data: bytes) -> ExportChoice:
    """Raises: MalformedOption."""
    cursor = _Cursor(data)
    name = cursor.string("export name")
    count = cursor.number(2, "number of information requests")
    if count > REQUESTS_MAX:
        raise MalformedOption(f"{count} information requests; {REQUESTS_MAX} are the most.")
    requests = [cursor.number(2, "information request") for _ in range(count)]
    cursor.end()
    if len(set(requests)) != len(requests):
        raise MalformedOption("An information request is there twice.")
    return ExportChoice(name=name, requests=frozenset(requests))


def decode_query(data: bytes) -> ContextQuery:
    """Raises: MalformedOption."""
    cursor = _Cursor(data)
    name = cursor.string("export name")
    count = cursor.number(4, "number of queries")
    if count > QUERIES_MAX:
        raise MalformedOption(f"{count} queries; {QUERIES_MAX} are the most.")
    queries = tuple(cursor.string("query") for _ in range(count))
    cursor.end()
    return ContextQuery(name=name, queries=queries)


def reply(option: int, kind: int, data: bytes = b"") -> bytes:
    """One option reply."""
    head = {
        "magic": NBD_OPTION_REPLY_MAGIC,
        "option": option,
        "type": kind,
        "data_bytes": len(data),
    }
    return NBD_OPTION_REPLY.pack(head) + data


def server(option: int, export: Export) -> bytes:
    """One line of a LIST."""
    name = export.name.encode()
    data = len(name).to_bytes(4, "big") + name + export.description.encode()
    return reply(option, NBD_REP_SERVER, data)


def context(option: int, number: int, name: str) -> bytes:
    return reply(option, NBD_REP_META_CONTEXT, number.to_bytes(4, "big") + name.encode())


def block_sizes(option: int) -> bytes:
    """Smallest, smallest efficient and largest block, the same for every volume."""
    sizes = {
        "type": NBD_INFO_BLOCK_SIZE,
        "min_bytes": NBD_BLOCK_MIN,
        "preferred_bytes": NBD_BLOCK_PREFERRED,
        "max_bytes": NBD_BLOCK_MAX,
    }
    return reply(option, NBD_REP_INFO, NBD_BLOCK_SIZE_INFO.pack(sizes))


def information(
    option: int, export: Export, requests: frozenset[int], *, structured: bool
) -> Sequence[bytes]:
    """What INFO and GO tell of an export: always size, flags and block sizes, the rest when it was asked for."""
    facts = {
        "type": NBD_INFO_EXPORT,
        "size_bytes": export.size_bytes,
        "flags": export.flags(structured=structured),
    }
    told = [reply(option, NBD_REP_INFO, NBD_EXPORT_INFO.pack(facts)), block_sizes(option)]
    for kind, words in (
        (NBD_INFO_NAME, export.name),
        (NBD_INFO_DESCRIPTION, export.description),
    ):
        if kind in requests:
            told.append(reply(option, NBD_REP_INFO, kind.to_bytes(2, "big") + words.encode()))
    return told
