"""Calls between processes of a cluster: who does not know the key gets nothing, and is not believed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from structlog.testing import capture_logs

from sparrow.base.errors import AlreadyExists, StaleEpoch, Unavailable, Unproven
from sparrow.base.ids import Lsn, ReplicaId, VolumeId
from sparrow.formats.hello import KEY_ID_BYTES, NONCE_BYTES
from sparrow.rpc import methods, proof
from sparrow.rpc.client import Channel
from sparrow.rpc.errors import metadata_of, row_of
from sparrow.rpc.messages import (
    ChallengeAnswer,
    ChallengeRequest,
    GetVolumeRequest,
    VerifyProgress,
    VerifyRequest,
    VolumeView,
)
from sparrow.rpc.proof import (
    PROOF_KEY,
    SESSIONS_MAX,
    WINDOW,
    CallJudge,
    SessionOver,
    Window,
    guarded,
)
from sparrow.rpc.server import SENDER_KEY, Call, Route, Server, stream, unary
from tests.support.keys import KeyRing
from tests.support.ports import HOST, free_ports

KEYS = KeyRing(b"one")
WAIT_S = 30.0
GET = methods.GET_VOLUME
ASKED = GetVolumeRequest(name="a")


def view(name: str) -> VolumeView:
    return VolumeView(
        name=VolumeId(name), size_bytes=1, block_size=4096, replication_factor=1, state="healthy",
        cause="", line=None, replicas=(), frontends=(),
    )  # fmt: skip


class Served:
    """A process with a judge; what was carried out is counted."""

    def __init__(self, keys: KeyRing = KEYS) -> None:
        self.judge = CallJudge(keys)
        self.done: list[str] = []
        self._server = Server(guarded(self._routes(), self.judge))

    def _routes(self) -> list[Route]:
        async def get(request: GetVolumeRequest, _call: Call) -> VolumeView:
            self.done.append(request.name)
            if request.name == "taken":
                raise AlreadyExists("Volume taken exists.", hint="Choose another näme.")
            return view(request.name)

        async def verify(request: VerifyRequest, _call: Call) -> AsyncGenerator[VerifyProgress]:
            for page in range(3):
                yield VerifyProgress(
                    pages_done=page, pages_total=3, lsn=Lsn(1), replicas=(ReplicaId("r1"),)
                )
            if request.volume_id == "broken":
                raise Unavailable("The primary went away.")

        return [unary(GET, get), stream(methods.VERIFY_VOLUME, verify)]

    async def start(self, address: str = "") -> str:
        return await self._server.start(address or f"{HOST}:{free_ports(1)[0]}")

    async def stop(self) -> None:
        await self._server.stop(grace_s=0)


@pytest.fixture
async def served() -> AsyncGenerator[tuple[Served, str]]:
    made = Served()
    yield made, await made.start()
    await made.stop()


@pytest.fixture
async def channel(served: tuple[Served, str]) -> AsyncGenerator[Channel]:
    made = Channel(served[1], who="the node", keys=KEYS)
    yield made
    await made.close()


async def raw(address: str, proved: bytes, body: bytes = GET.request.encode(ASKED)) -> bytes:
    """A call with any proof at all."""
    async with grpc.aio.insecure_channel(address) as bare:
        invoke: Any = bare.unary_unary(GET.path)
        data: bytes = await invoke(body, timeout=WAIT_S, metadata=((PROOF_KEY, proved),))
        return data


async def test_calls_errors_and_streams_are_as_they_are_without_proofs(channel: Channel) -> None:
    for name in ("a", "b"):
        answer = await channel.call(GET, GetVolumeRequest(name=name), timeout_s=WAIT_S)
        assert answer == view(name)
    with pytest.raises(AlreadyExists, match="exists") as caught:
        await channel.call(GET, GetVolumeRequest(name="taken"), timeout_s=WAIT_S)
    assert caught.value.hint == "Choose another näme."
    request = VerifyRequest(volume_id=VolumeId("a"))
    pages = [one.pages_done async for one in channel.stream(methods.VERIFY_VOLUME, request)]
    assert pages == [0, 1, 2]
    broken = VerifyRequest(volume_id=VolumeId("broken"))
    with pytest.raises(Unavailable, match="went away"):
        [one async for one in channel.stream(methods.VERIFY_VOLUME, broken)]


async def test_many_calls_at_once_are_one_session_or_a_few(
    channel: Channel, served: tuple[Served, str]
) -> None:
    calls = (channel.call(GET, GetVolumeRequest(name=str(n)), timeout_s=WAIT_S) for n in range(40))
    answers = await asyncio.gather(*calls)
    assert sorted(answer.name for answer in answers) == sorted(str(n) for n in range(40))
    assert len(served[0].done) == 40


async def test_a_call_without_a_proof_is_not_carried_out(served: tuple[Served, str]) -> None:
    handlers, address = served
    bare = Channel(address, who="the node")
    with capture_logs() as logs, pytest.raises(Unproven, match="carries no proof"):
        await bare.call(GET, ASKED, timeout_s=WAIT_S)
    await bare.close()
    assert handlers.done == []
    (told,) = [entry for entry in logs if entry["event"] == "call.unproven"]
    assert told["method"] == GET.path


async def test_the_wrong_key_is_told_on_both_sides(served: tuple[Served, str]) -> None:
    handlers, address = served
    stranger = Channel(address, who="the node", keys=KeyRing(b"another"))
    with capture_logs() as logs, pytest.raises(Unproven, match="is not known here") as caught:
        await stranger.call(GET, ASKED, timeout_s=WAIT_S)
    await stranger.close()
    assert "same cluster key file" in caught.value.hint
    assert {entry["cause"] for entry in logs if entry["event"] == "call.unproven"} == {
        "unknown_key"
    }
    assert handlers.done == []


class Recorder:
    """Takes the place of the channel's session to keep what goes over the wire."""

    def __init__(self, session: proof.Session) -> None:
        self.session = session
        self.proofs: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def prove(self, path: str, body: bytes) -> tuple[int, bytes]:
        number, proved = self.session.prove(path, body)
        self.proofs.append(proved)
        return number, proved


async def recorded(channel: Channel) -> bytes:
    """The proof of one call that was carried out."""
    await channel.call(GET, ASKED, timeout_s=WAIT_S)
    assert channel._session is not None
    recorder = Recorder(channel._session)
    channel._session = recorder  # type: ignore[assignment]
    await channel.call(GET, ASKED, timeout_s=WAIT_S)
    return recorder.proofs[0]


async def test_a_recorded_call_cannot_be_made_again(
    channel: Channel, served: tuple[Served, str]
) -> None:
    handlers, address = served
    proved = await recorded(channel)
    handlers.done.clear()
    with pytest.raises(grpc.aio.AioRpcError, match="was made before"):
        await raw(address, proved)
    assert handlers.done == []


async def test_a_recorded_call_is_worth_nothing_to_a_later_process(
    channel: Channel, served: tuple[Served, str]
) -> None:
    proved = await recorded(channel)
    later = Served()
    address = await later.start()
    with pytest.raises(grpc.aio.AioRpcError, match="earlier process"):
        await raw(address, proved)
    assert later.done == []
    await later.stop()


@pytest.mark.parametrize("at", [0, KEY_ID_BYTES, 60, 50, 87])
async def test_a_changed_proof_is_refused(
    channel: Channel, served: tuple[Served, str], at: int
) -> None:
    """Key, nonce, number, process, mac: each is under the mac or chooses it."""
    handlers, address = served
    await channel.call(GET, ASKED, timeout_s=WAIT_S)
    assert channel._session is not None
    _number, proved = channel._session.prove(GET.path, GET.request.encode(ASKED))
    handlers.done.clear()
    changed = bytearray(proved)
    changed[at] ^= 1
    with pytest.raises(grpc.aio.AioRpcError):
        await raw(address, bytes(changed))
    with pytest.raises(grpc.aio.AioRpcError, match="does not match"):
        await raw(address, proved, GET.request.encode(GetVolumeRequest(name="other")))
    assert handlers.done == []
    assert await raw(address, proved)
    assert handlers.done == ["a"]


async def test_a_server_that_started_anew_costs_one_more_question(
    channel: Channel, served: tuple[Served, str]
) -> None:
    handlers, address = served
    await channel.call(GET, ASKED, timeout_s=WAIT_S)
    await handlers.stop()
    later = Served()
    await later.start(address)
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                await channel.call(GET, ASKED, timeout_s=WAIT_S)
                break
            except Unavailable:
                await asyncio.sleep(0.05)
    assert later.done == ["a"]
    assert [one.pages_done async for one in channel.stream(
        methods.VERIFY_VOLUME, VerifyRequest(volume_id=VolumeId("a"))
    )] == [0, 1, 2]  # fmt: skip
    await later.stop()


async def test_a_stream_begins_anew_with_a_server_that_did(
    channel: Channel, served: tuple[Served, str]
) -> None:
    await channel.call(GET, ASKED, timeout_s=WAIT_S)
    served[0].judge._nonce = b"x" * NONCE_BYTES
    request = VerifyRequest(volume_id=VolumeId("a"))
    pages = [one.pages_done async for one in channel.stream(methods.VERIFY_VOLUME, request)]
    assert pages == [0, 1, 2]


async def test_nobody_without_the_key_puts_another_name_on_a_call(
    served: tuple[Served, str],
) -> None:
    """The name is in the session's key: begun as one, it proves nothing as another."""
    handlers, address = served
    named = Channel(address, who="the node", sender="n1", keys=KEYS)
    await named.call(GET, ASKED, timeout_s=WAIT_S)
    assert named._session is not None
    handlers.done.clear()
    body = GET.request.encode(ASKED)
    async with grpc.aio.insecure_channel(address) as bare:
        invoke: Any = bare.unary_unary(GET.path)
        for sender in ("n2", ""):
            proved = named._session.prove(GET.path, body)[1]
            metadata = ((SENDER_KEY, sender), (PROOF_KEY, proved))
            with pytest.raises(grpc.aio.AioRpcError, match="does not match the call"):
                await invoke(body, timeout=WAIT_S, metadata=metadata)
    assert handlers.done == []
    await named.close()


async def test_after_a_refusal_the_next_call_begins_with_the_key_of_the_moment() -> None:
    """Keys change in rounds while sessions stand: a session of a key that is gone must not be the last one."""
    theirs, ours = KeyRing(b"old", b"new"), KeyRing(b"old", b"new")
    made = Served(theirs)
    channel = Channel(await made.start(), who="the node", keys=ours)
    await channel.call(GET, ASKED, timeout_s=WAIT_S)
    ours.keys.reverse()
    await channel.call(GET, ASKED, timeout_s=WAIT_S)
    theirs.keys.pop(0)
    with pytest.raises(Unproven, match="is not known here"):
        await channel.call(GET, ASKED, timeout_s=WAIT_S)
    assert await channel.call(GET, ASKED, timeout_s=WAIT_S) == view("a")
    await channel.close()
    await made.stop()


LIVE = replace(methods.VERIFY_VOLUME, name="Follow", live=True)


class Live:
    """Serves a live stream through whatever stands between it and its caller."""

    def __init__(self, between: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]]) -> None:
        self.more = asyncio.Event()

        async def follow(_request: VerifyRequest, _call: Call) -> AsyncGenerator[VerifyProgress]:
            for page in range(4):
                if page == 2:
                    await self.more.wait()
                yield VerifyProgress(
                    pages_done=page, pages_total=4, lsn=Lsn(1), replicas=(ReplicaId("r1"),)
                )
            raise Unavailable("Subscribe again.")

        challenge, route = guarded([stream(LIVE, follow)], CallJudge(KEYS))
        inner: Any = route.handler

        async def serve(data: bytes, context: Any) -> AsyncIterator[bytes]:
            async for one in between(inner.unary_stream(data, context)):
                yield one

        handler = grpc.unary_stream_rpc_method_handler(serve)
        self._server = Server([challenge, replace(route, handler=handler)])

    async def start(self) -> Channel:
        return Channel(await self._server.start("127.0.0.1:0"), who="the master", keys=KEYS)

    async def stop(self) -> None:
        await self._server.stop(grace_s=0)


async def as_sent(answers: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for one in answers:
        yield one


async def test_a_message_of_a_live_stream_counts_when_it_comes() -> None:
    """None waits for the one behind it: the next may come in hours."""
    live = Live(as_sent)
    channel = await live.start()
    pages = channel.stream(LIVE, VerifyRequest(volume_id=VolumeId("a")))
    assert [(await anext(pages)).pages_done for _ in range(2)] == [0, 1]
    live.more.set()
    assert [(await anext(pages)).pages_done for _ in range(2)] == [2, 3]
    with pytest.raises(Unavailable, match="Subscribe again"):
        await anext(pages)
    await channel.close()
    await live.stop()


async def left_out(answers: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    await anext(answers)
    async for one in answers:
        yield one


async def doubled(answers: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    first = await anext(answers)
    yield first
    yield first


async def swapped(answers: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    first, second = await anext(answers), await anext(answers)
    yield second
    yield first


async def changed(answers: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield await anext(answers)
    second = bytearray(await anext(answers))
    second[-1] ^= 1
    yield bytes(second)


async def cut_short(answers: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield await anext(answers)
    yield (await anext(answers))[:10]


@pytest.mark.parametrize(
    ("between", "believed"),
    [(left_out, []), (doubled, [0]), (swapped, []), (changed, [0]), (cut_short, [0])],
)
async def test_nothing_in_a_live_stream_can_be_left_out_doubled_moved_or_changed(
    between: Callable[[AsyncIterator[bytes]], AsyncIterator[bytes]], believed: list[int]
) -> None:
    live = Live(between)
    channel = await live.start()
    pages = channel.stream(LIVE, VerifyRequest(volume_id=VolumeId("a")))
    assert [(await anext(pages)).pages_done for _ in believed] == believed
    with pytest.raises(Unproven, match="does not prove"):
        await anext(pages)
    await channel.close()
    await live.stop()


class Imposter:
    """A server at a node's address that knows the protocol and has a session's macs of somebody else."""

    def __init__(self, answer_error: bool) -> None:
        self._answer_error = answer_error
        self._server = Server([unary(methods.CHALLENGE, self._challenge), self._route()])

    async def _challenge(self, request: ChallengeRequest, _call: Call) -> ChallengeAnswer:
        """What the real node said when it was there, were it asked with the same nonce."""
        secret = proof.session_key(KEYS.own(), request.nonce, b"s" * NONCE_BYTES)
        return ChallengeAnswer(nonce=b"s" * NONCE_BYTES, proof=proof.mac(secret, proof.WHO_ANSWERS))

    def _route(self) -> Route:
        async def one(_data: bytes, context: Any) -> bytes:
            if self._answer_error:
                error = AlreadyExists("Gone.")
                await context.abort(row_of(error).status, str(error), metadata_of(error))
            context.set_trailing_metadata(((PROOF_KEY, b"m" * 32),))
            return GET.answer.encode(view("forged"))

        return Route(GET.service, GET.name, grpc.unary_unary_rpc_method_handler(one))

    async def start(self) -> str:
        return await self._server.start("127.0.0.1:0")

    async def stop(self) -> None:
        await self._server.stop(grace_s=0)


@pytest.mark.parametrize("answer_error", [False, True], ids=["answer", "error"])
async def test_an_answer_without_a_proof_is_not_believed(answer_error: bool) -> None:
    imposter = Imposter(answer_error)
    channel = Channel(await imposter.start(), who="the node", keys=KEYS)
    with capture_logs() as logs, pytest.raises(Unproven, match="does not prove"):
        await channel.call(GET, ASKED, timeout_s=WAIT_S)
    assert [entry["event"] for entry in logs] == ["call.unproven"]
    await channel.close()
    await imposter.stop()


async def test_what_does_not_know_this_protocol_is_not_believed_either() -> None:
    """Another program at the address: gRPC itself answers, and an unproved answer is no fact."""
    other = Server([])
    channel = Channel(await other.start("127.0.0.1:0"), who="the node", keys=KEYS)
    with pytest.raises(Unproven, match="does not know this call"):
        await channel.call(GET, ASKED, timeout_s=WAIT_S)
    await channel.close()
    await other.stop(grace_s=0)


async def test_what_a_stranger_says_before_it_has_proved_itself_is_no_fact() -> None:
    """An error of ours in answer to the challenge, such as an epoch promised elsewhere, would end a primary."""

    async def refuse(_request: ChallengeRequest, _call: Call) -> ChallengeAnswer:
        raise StaleEpoch("Epoch 99 is promised.")

    other = Server([unary(methods.CHALLENGE, refuse)])
    channel = Channel(await other.start("127.0.0.1:0"), who="the node", keys=KEYS)
    with pytest.raises(Unproven, match="does not prove who it is: Epoch 99"):
        await channel.call(GET, ASKED, timeout_s=WAIT_S)
    await channel.close()
    await other.stop(grace_s=0)


def test_numbers_may_overtake_each_other_and_are_taken_once() -> None:
    window = Window()
    assert [window.take(n) for n in (3, 1, 2, 3, 1, 5, 4, 4)] == [
        True, True, True, False, False, True, True, False,
    ]  # fmt: skip
    assert window.take(WINDOW + 4)
    assert not window.take(4), "as old as that is as good as taken"
    assert window.take(6)
    assert window.take(10 * WINDOW)
    assert not window.take(WINDOW + 5)


def test_too_many_sessions_end_all_of_them_and_forget_none() -> None:
    """Forgetting one session's numbers would let its calls be made again."""
    judge = CallJudge(KEYS)

    def begin(n: int) -> proof.Session:
        nonce = n.to_bytes(NONCE_BYTES, "big")
        secret = proof.session_key(KEYS.own(), nonce, judge._nonce)
        return proof.Session(
            key_id=KEYS.own().key_id, nonce=nonce, server=judge._nonce, secret=secret
        )

    first = begin(0)
    played = first.prove("/p", b"")[1]
    judge.admit("/p", b"", played)
    for n in range(1, SESSIONS_MAX):
        judge.admit("/p", b"", begin(n).prove("/p", b"")[1])
    with pytest.raises(SessionOver):
        judge.admit("/p", b"", begin(SESSIONS_MAX).prove("/p", b"")[1])
    with pytest.raises(SessionOver):
        judge.admit("/p", b"", played)
    judge.admit("/p", b"", begin(0).prove("/p", b"")[1])
