"""Proof that calls between processes of a cluster, and their answers, come from who knows the cluster key.

A channel begins with ``Challenge``: the caller sends a nonce, the server answers with the nonce of its process and a
mac under the session's key, which is made of the cluster key, the name the caller gives itself and both nonces. Then
each call carries the caller's nonce, a number and a mac over method, number and request; each answer, errors of ours
included, a mac over method, number and what is answered. All macs are HMAC-SHA-256.

Why that is enough. Both nonces are in the session's key, so a call that was recorded proves nothing to a process that
started later, and within one process its number is taken once: the server remembers, per session, the newest numbers
and refuses what is older. It keeps nothing of callers that have proved nothing. When it has too many sessions to
remember it draws a new nonce of its own, which ends them all: forgetting one would let its calls be played again. The
caller's name is in the session's key too, so nobody without the cluster key can put another name on a call; who has it
can give itself any name (docs/decisions/0015-what-a-nodes-name-proves.md). Requests and answers are told apart by the
text each mac begins with, methods by their path, so nothing can be given back as something else. A caller that hears
that its session is over proves itself again and repeats the call, which was not carried out.

An answer whose mac is wrong is not believed: a fence that was answered by whoever has the address now would be worth
nothing. A stream's mac is over all of its messages and comes at its end, so the last message is held back until
then; ReadLog sends one. A live stream, which may say nothing for hours, has a mac before each message, over its place
in the stream too: each is believed when it comes, and none can be left out, doubled or moved. That it ended is
believed from anybody, as a broken connection is. Transport errors have no mac and mean only that there is no answer.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn, Protocol

import grpc
import structlog

from sparrow.base import events
from sparrow.base.errors import RemoteProtocolError, SparrowError, Unproven
from sparrow.formats.hello import KEY_ID_BYTES, NONCE_BYTES, ClusterKey, mac
from sparrow.rpc import methods
from sparrow.rpc.errors import CODE_KEY, HINT_KEY, details_of, metadata_of, row_of
from sparrow.rpc.messages import ChallengeAnswer, ChallengeRequest
from sparrow.rpc.server import Call, Handler, Route, unary

PROOF_KEY: Final = "sparrow-proof-bin"
MAC_BYTES: Final = 32
#: Calls of one session that may overtake each other.
WINDOW: Final = 4096
SESSIONS_MAX: Final = 1024
NUMBER_END: Final = 1 << 63

SESSION: Final = b"sparrow call: session\0"
WHO_ANSWERS: Final = b"sparrow call: who answers\0"
REQUEST: Final = b"sparrow call: request\0"
ANSWER: Final = b"sparrow call: answer\0"
ITEM: Final = b"sparrow call: item\0"
ERROR: Final = b"sparrow call: error\0"

log = structlog.get_logger(__name__)


class Keys(Protocol):
    """The cluster's keys as they are now."""

    def own(self) -> ClusterKey: ...
    def find(self, key_id: bytes) -> ClusterKey | None: ...


class SessionOver(Unproven, code="peer.session_over"):
    """The server started anew, or has too many sessions: begin another one and repeat the call."""


def session_key(key: ClusterKey, caller: bytes, server: bytes, sender: str = "") -> bytes:
    """Of one caller, which says who it is, and one server process; both are known by their nonces."""
    return mac(key.secret, SESSION, hashlib.sha256(sender.encode()).digest(), caller, server)


def over_call(secret: bytes, what: bytes, path: str, number: int, digest: bytes) -> bytes:
    """The mac over a request, an answer or an error, given the SHA-256 of its content."""
    where = hashlib.sha256(path.encode()).digest()
    return mac(secret, what, where, number.to_bytes(8, "big"), digest)


def digest_of(parts: Sequence[bytes]) -> bytes:
    """SHA-256 over messages, each after its length."""
    running = hashlib.sha256()
    for part in parts:
        running.update(len(part).to_bytes(8, "big"))
        running.update(part)
    return running.digest()


def item_digest(index: int, message: bytes) -> bytes:
    """SHA-256 over one message of a live stream and its place, from 0."""
    return digest_of([index.to_bytes(8, "big"), message])


def digest_of_error(
    status: grpc.StatusCode, details: str, metadata: Sequence[tuple[str, str | bytes]]
) -> bytes:
    """SHA-256 over what makes an error of ours on the other side."""
    items = dict(metadata)
    values = (status.name, details, items.get(CODE_KEY, ""), items.get(HINT_KEY, b""))
    return digest_of([v.encode() if isinstance(v, str) else v for v in values])


# ---------------------------------------------------------------- the caller


@dataclass(slots=True, kw_only=True)
class Session:
    """A caller's side of one session."""

    key_id: bytes
    nonce: bytes
    server: bytes
    secret: bytes = field(repr=False)
    calls: int = 0

    def prove(self, path: str, body: bytes) -> tuple[int, bytes]:
        """The number of a new call, and its metadata."""
        self.calls += 1
        proved = over_call(self.secret, REQUEST, path, self.calls, hashlib.sha256(body).digest())
        number = self.calls.to_bytes(8, "big")
        return self.calls, self.key_id + self.nonce + self.server[:KEY_ID_BYTES] + number + proved

    def check(
        self, what: bytes, path: str, number: int, digest: bytes, *, metadata: Any, who: str
    ) -> None:
        """Raises: Unproven: who answered does not know the session's key."""
        found = dict(metadata or ()).get(PROOF_KEY, b"")
        self._compare(found, over_call(self.secret, what, path, number, digest), path, who)

    def item(self, path: str, number: int, index: int, data: bytes, *, who: str) -> bytes:
        """The message of a live stream behind its mac. Raises: Unproven, as above."""
        found, message = data[:MAC_BYTES], data[MAC_BYTES:]
        expected = over_call(self.secret, ITEM, path, number, item_digest(index, message))
        self._compare(found, expected, path, who)
        return message

    def _compare(self, found: object, expected: bytes, path: str, who: str) -> None:
        if not isinstance(found, bytes) or not hmac.compare_digest(found, expected):
            log.warning(
                events.CALL_UNPROVEN, method=path, peer=who, cause="its answer has no proof"
            )
            raise Unproven(
                f"An answer to {path} from {who} does not prove that it knows the cluster key."
            )


def new_request(keys: Keys) -> tuple[ClusterKey, ChallengeRequest]:
    """The first message of a channel, and the key it names."""
    key = keys.own()
    return key, ChallengeRequest(key_id=key.key_id, nonce=secrets.token_bytes(NONCE_BYTES))


def accept(
    key: ClusterKey, request: ChallengeRequest, answer: ChallengeAnswer, who: str, sender: str = ""
) -> Session:
    """The session a server offers. Raises: Unproven: it does not know the key."""
    secret = session_key(key, request.nonce, answer.nonce, sender)
    if len(answer.nonce) != NONCE_BYTES or not hmac.compare_digest(
        answer.proof, mac(secret, WHO_ANSWERS)
    ):
        log.warning(events.CALL_UNPROVEN, peer=who, cause="it does not know our key")
        raise Unproven(
            f"{who} does not know the cluster key {key.key_id.hex()}.",
            hint="Give both the same cluster key file.",
        )
    return Session(key_id=request.key_id, nonce=request.nonce, server=answer.nonce, secret=secret)


# ---------------------------------------------------------------- the server


@dataclass(slots=True)
class Window:
    """Which numbers of a session were taken."""

    highest: int = 0
    taken: int = 0

    def take(self, number: int) -> bool:
        """False when it was taken before, or is too old to know."""
        ahead = number - self.highest
        if ahead > 0:
            self.taken = ((self.taken << ahead) | 1) & ((1 << WINDOW) - 1) if ahead < WINDOW else 1
            self.highest = number
            return True
        if -ahead >= WINDOW or self.taken >> -ahead & 1:
            return False
        self.taken |= 1 << -ahead
        return True


@dataclass(frozen=True, slots=True)
class Proved:
    """A call that was let in."""

    secret: bytes = field(repr=False)
    path: str
    number: int

    def answer(self, digest: bytes) -> tuple[str, bytes]:
        return PROOF_KEY, over_call(self.secret, ANSWER, self.path, self.number, digest)

    def item(self, index: int, message: bytes) -> bytes:
        """A message of a live stream with its mac before it."""
        digest = item_digest(index, message)
        return over_call(self.secret, ITEM, self.path, self.number, digest) + message

    def error(self, digest: bytes) -> tuple[str, bytes]:
        return PROOF_KEY, over_call(self.secret, ERROR, self.path, self.number, digest)


class CallJudge:
    """Lets in calls that prove the cluster key, each once.

    Args:
        sessions_max: callers at once, with those that went since; one more ends all sessions.
    """

    def __init__(self, keys: Keys, *, sessions_max: int = SESSIONS_MAX) -> None:
        self._keys = keys
        self._sessions_max = sessions_max
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._windows: dict[tuple[bytes, bytes], Window] = {}

    async def challenge(self, request: ChallengeRequest, call: Call) -> ChallengeAnswer:
        """Prove this process; nothing is remembered of who asks. Raises: Unproven, RemoteProtocolError."""
        if len(request.nonce) != NONCE_BYTES:
            raise RemoteProtocolError(f"nonce has {len(request.nonce)} bytes, not {NONCE_BYTES}")
        key = self._keys.find(request.key_id)
        if key is None:
            error = Unproven(
                f"The cluster key {request.key_id.hex()} is not known here.",
                hint="Give both processes the same cluster key file.",
            )
            log.warning(
                events.CALL_UNPROVEN, peer=call.peer(), cause="unknown_key", hint=error.hint
            )
            raise error
        secret = session_key(key, request.nonce, self._nonce, call.sender())
        return ChallengeAnswer(nonce=self._nonce, proof=mac(secret, WHO_ANSWERS))

    def admit(self, path: str, body: bytes, proof: bytes, sender: str = "") -> Proved:
        """Raises: SessionOver, Unproven."""
        parts, at = [], 0
        for size in (KEY_ID_BYTES, NONCE_BYTES, KEY_ID_BYTES, 8, MAC_BYTES):
            parts.append(proof[at : at + size])
            at += size
        key_id, nonce, server, number_bytes, found = parts
        number = int.from_bytes(number_bytes, "big")
        if len(proof) != at or not 0 < number < NUMBER_END:
            raise Unproven("The call carries no proof that its sender knows the cluster key.")
        key = self._keys.find(key_id)
        if key is None:
            raise Unproven(f"The cluster key {key_id.hex()} is not known here.")
        if server != self._nonce[:KEY_ID_BYTES]:
            raise SessionOver("The session was begun with an earlier process.")
        secret = session_key(key, nonce, self._nonce, sender)
        digest = hashlib.sha256(body).digest()
        if not hmac.compare_digest(found, over_call(secret, REQUEST, path, number, digest)):
            raise Unproven("The call's proof does not match the call.")
        window = self._windows.get((key_id, nonce))
        if window is None:
            if len(self._windows) >= self._sessions_max:
                self._windows.clear()
                self._nonce = secrets.token_bytes(NONCE_BYTES)
                raise SessionOver("There are too many sessions; all begin anew.")
            window = self._windows[key_id, nonce] = Window()
        if not window.take(number):
            raise Unproven("The call was made before.")
        return Proved(secret, path, number)

    async def let_in(self, path: str, body: bytes, context: Any) -> Proved:
        """:meth:`admit` for a call of gRPC's; one that is not let in ends here."""
        found = dict(context.invocation_metadata() or ()).get(PROOF_KEY, b"")
        try:
            proof = found if isinstance(found, bytes) else b""
            return self.admit(path, body, proof, Call(context).sender())
        except SparrowError as error:
            if not isinstance(error, SessionOver):
                log.warning(
                    events.CALL_UNPROVEN, method=path, peer=context.peer(), cause=str(error)
                )
            await context.abort(row_of(error).status, details_of(error), metadata_of(error))
            raise AssertionError("abort raises") from None


class _ProvedContext:
    """gRPC's context, whose errors are proved."""

    def __init__(self, context: Any, proved: Proved) -> None:
        self._context = context
        self._proved = proved

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(
        self,
        status: grpc.StatusCode,
        details: str = "",
        metadata: tuple[tuple[str, str | bytes], ...] = (),
    ) -> NoReturn:
        proof = self._proved.error(digest_of_error(status, details, metadata))
        await self._context.abort(status, details, (*metadata, proof))
        raise AssertionError("abort raises")


def guarded(routes: Sequence[Route], judge: CallJudge) -> list[Route]:
    """These routes for callers that prove themselves, and the one with which they begin."""
    return [unary(methods.CHALLENGE, judge.challenge), *(_guarded(one, judge) for one in routes)]


def _guarded(route: Route, judge: CallJudge) -> Route:
    path = f"/{route.service}/{route.name}"
    inner: Any = route.handler

    async def one(data: bytes, context: Any) -> bytes:
        proved = await judge.let_in(path, data, context)
        answer: bytes = await inner.unary_unary(data, _ProvedContext(context, proved))
        context.set_trailing_metadata((proved.answer(digest_of([answer])),))
        return answer

    async def many(data: bytes, context: Any) -> AsyncIterator[bytes]:
        proved = await judge.let_in(path, data, context)
        running = StreamDigest()
        generator: AsyncGenerator[bytes] = inner.unary_stream(data, _ProvedContext(context, proved))
        async with aclosing(generator) as answers:
            async for answer in answers:
                running.add(answer)
                yield answer
        context.set_trailing_metadata((proved.answer(running.digest()),))

    async def live(data: bytes, context: Any) -> AsyncIterator[bytes]:
        proved = await judge.let_in(path, data, context)
        generator: AsyncGenerator[bytes] = inner.unary_stream(data, _ProvedContext(context, proved))
        index = 0
        async with aclosing(generator) as answers:
            async for answer in answers:
                yield proved.item(index, answer)
                index += 1

    handler: Handler = (
        grpc.unary_stream_rpc_method_handler(live if route.live else many)
        if inner.response_streaming
        else grpc.unary_unary_rpc_method_handler(one)
    )
    return Route(route.service, route.name, handler)


class StreamDigest:
    """:func:`digest_of` while messages come."""

    def __init__(self) -> None:
        self._running = hashlib.sha256()

    def add(self, message: bytes) -> None:
        self._running.update(len(message).to_bytes(8, "big"))
        self._running.update(message)

    def digest(self) -> bytes:
        return self._running.digest()
