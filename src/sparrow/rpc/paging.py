"""Lists in pages, as AIP-158 has them: whatever a cluster grows to, no answer grows with it.

A token names the call it belongs to and the last key that was given. So the master keeps nothing of a walk: a page can
be asked for again, also of a master that has started anew meanwhile, and nothing is lost when a caller goes away. Keys
have an order that does not change, so an entry that is there during the whole walk is given exactly once; one that
comes or goes meanwhile is given once or not at all. Each is as of the moment at which it was put into its page.

A page ends at ``page_size`` entries, or before the entry that would make it too large. Entries are encoded one by one
and set one behind the other: protobuf reads concatenated messages as one that has the entries of all (Encoding, "Last
One Wins"). Between them the event loop goes on (``rpc.turns``).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Generic, TypeVar

from sparrow.base.errors import InvalidArgument
from sparrow.rpc.codec import Wire
from sparrow.rpc.messages import Page, PageRequest
from sparrow.rpc.methods import Unary
from sparrow.rpc.server import Call, Route, unary
from sparrow.rpc.turns import Turn

Q = TypeVar("Q", bound=PageRequest)
A = TypeVar("A", bound=Page)

#: Entries of a page: where the caller does not say, and at most; who asks for more gets this many.
PAGE_SIZE: Final = 250
PAGE_SIZE_MAX: Final = 1000
#: Of the entries of a page. Clients of other makers take 4 MiB, gRPC's default.
PAGE_BYTES_MAX: Final = 2 << 20
#: Ours are much shorter: the path of a call and the name of something.
TOKEN_BYTES_MAX: Final = 1024


@dataclass(frozen=True, slots=True)
class Walk(Generic[A]):
    """What a page is made of.

    Attributes:
        head: the answer without entries.
        entries: key, and an answer of one entry; None where the key has nothing to show. Keys grow. It is looked at in
            several turns, and no further than the page goes.
    """

    head: A
    entries: Iterator[tuple[str, A | None]]


def paged(method: Unary[Q, A], begin: Callable[[Q, str], Awaitable[Walk[A]]]) -> Route:
    """Serve a list.

    Args:
        begin: given the request and the key of the last entry given (empty: none), where the walk goes on.
    """

    async def page(request: Q, _call: Call) -> bytes:
        walk = await begin(request, _key_in(request.page_token, method.path))
        return await _gathered(method, walk, request.page_size)

    return unary(replace(method, answer=_ENCODED), page)  # type: ignore[arg-type] # mypy: replace keeps A


async def _gathered(method: Unary[Q, A], walk: Walk[A], wanted: int) -> bytes:
    count_max = min(wanted or PAGE_SIZE, PAGE_SIZE_MAX)
    turn = Turn()
    entries: list[bytes] = []
    size, last, token = 0, "", ""
    for key, entry in walk.entries:
        if entry is not None:
            data = method.answer.encode(entry)
            size += len(data)
            if len(entries) == count_max or (entries and size > PAGE_BYTES_MAX):
                token = _token_of(last, method.path)
                break
            entries.append(data)
        last = key
        await turn.rest()
    return method.answer.encode(replace(walk.head, next_page_token=token)) + b"".join(entries)


def _token_of(key: str, path: str) -> str:
    return base64.urlsafe_b64encode(f"{path}\n{key}".encode()).decode()


def _key_in(token: str, path: str) -> str:
    """Raises: InvalidArgument: no token of this call."""
    if not token:
        return ""
    refusal = InvalidArgument(
        f"page_token is {token[:64]!r}, which this call did not give.",
        hint="Leave it empty for the first page, then repeat next_page_token as it came.",
    )
    if len(token) > TOKEN_BYTES_MAX:
        raise refusal
    try:
        named, end, key = (
            base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
            .decode()
            .partition("\n")
        )
    except (binascii.Error, UnicodeError) as error:
        raise refusal from error
    if not end or not key or named != path:
        raise refusal
    return key


def _is_encoded(_data: bytes) -> bytes:
    raise AssertionError("servers do not read answers")


_ENCODED: Final[Wire[bytes]] = Wire(bytes, _is_encoded)
