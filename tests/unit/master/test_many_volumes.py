"""A master with 100,000 volumes, as many as it is made for: lists come whole, in pages, and hold up nobody."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from asyncio import events as asyncio_events
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any, Self, TypeVar

import pytest
import structlog

from bench.scale import Cluster
from sparrow.authority.types import DesiredVolume, Line, LoadedLines
from sparrow.base.access import Secret
from sparrow.base.errors import FailedPrecondition
from sparrow.master import volume_service
from sparrow.master.app import Master
from sparrow.ports.store import LoadedVolumes
from sparrow.rpc import methods
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.codec import Wire
from sparrow.rpc.gen import sparrow_pb2 as pb
from sparrow.rpc.messages import AuthorityStatusRequest, CreateVolumeRequest, ListVolumesRequest
from sparrow.rpc.methods import Unary
from sparrow.rpc.paging import PAGE_SIZE
from sparrow.store.memory import MemoryDisk, MemoryStore

VOLUMES = 100_000
NODES = 1_000
#: Processor time of one step of the event loop. Not wall time: on a busy machine that says how busy it is.
PAUSE_S = 0.05
#: For a page, on a busy machine.
WAIT_S = 60.0
ANSWERS: dict[str, Any] = {
    methods.LIST_VOLUMES.path: pb.ListVolumesResponse,
    methods.AUTHORITY_STATUS.path: pb.AuthorityStatusResponse,
}
Q = TypeVar("Q")
T = TypeVar("T")
#: Tasks whose steps are not the lists' own.
BACKGROUND = {"reconciler", "recovery", "copies"}


class FullStore(MemoryStore):
    """A store in memory that holds these from the start, without having written each."""

    def __init__(self, lines: list[Line], volumes: tuple[DesiredVolume, ...]) -> None:
        super().__init__(MemoryDisk())
        self._lines, self._volumes = tuple(lines), volumes

    def load_with_skips(self) -> LoadedLines:
        return LoadedLines(lines=self._lines, skips=())

    def load_volumes(self) -> LoadedVolumes:
        return LoadedVolumes(volumes=self._volumes, skips=())


class StandingClock:
    """No time passes, so nothing is late, and the lists are all the work there is."""

    def now(self) -> float:
        return 100.0


class MasterThread:
    """A whole master in a thread of its own, so that its event loop is not the client's."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._ready, self._stop = threading.Event(), asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="master", daemon=True)
        self.address = ""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(300), "the master did not start"
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        master = Master(self._store, StandingClock(), structlog.get_logger())
        self.address = await master.start("127.0.0.1:0")
        self._ready.set()
        await self._stop.wait()
        await master.stop()

    @contextmanager
    def steps(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[float, str]]]:
        """Processor time of every step of a task in the master's loop; that of ticks is not the lists' own."""
        found: list[tuple[float, str]] = []
        run: Any = asyncio_events.Handle._run

        def timed(handle: asyncio.Handle) -> None:
            task = getattr(handle._callback, "__self__", None)  # type: ignore[attr-defined]
            if threading.current_thread() is not self._thread or not isinstance(task, asyncio.Task):
                run(handle)
                return
            began = time.thread_time()
            run(handle)
            found.append((time.thread_time() - began, task.get_name()))

        with monkeypatch.context() as patch:
            patch.setattr(asyncio_events.Handle, "_run", timed)
            yield found


@pytest.fixture(scope="module")
def master() -> Iterator[MasterThread]:
    cluster = Cluster(nodes=NODES, volumes=VOLUMES, active_share=0)
    store = FullStore(cluster.lines(), cluster.desired())
    with MasterThread(store) as running:
        # As the process does it: what lives now is no garbage, and looking for some among it takes long.
        gc.collect()
        gc.freeze()
        yield running
        gc.unfreeze()
    store.close()


def as_it_is(method: Unary[Q, Any]) -> Unary[Q, Any]:
    """The same call, with the answer as the protobuf message that came."""
    return replace(method, answer=Wire(_never_sent, ANSWERS[method.path].FromString))


def _never_sent(_value: object) -> bytes:
    raise AssertionError("a client sends no answers")


def asked(master: MasterThread, work: Callable[[ApiClient], Awaitable[T]]) -> T:
    async def run() -> T:
        async with ApiClient(master.address) as api:
            return await work(api)

    return asyncio.run(run())


def held_up_nobody(steps: list[tuple[float, str]], *, at_least: int) -> None:
    own = [step for step in steps if step[1] not in BACKGROUND]
    assert len(own) > at_least, "the steps of the calls were measured"
    assert max(own)[0] < PAUSE_S, sorted(own, reverse=True)[:5]


@pytest.mark.timeout(600)
def test_all_volumes_and_all_lines_are_listed_and_the_masters_loop_is_never_held_up(
    master: MasterThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [f"pvc-{number:08d}" for number in range(VOLUMES)]

    # Only the names are taken out of the messages: to make our own objects of 100,000 volumes takes the client, whose
    # thread shares the interpreter with the master, longer than it takes the master to send them.
    async def volumes(api: ApiClient) -> tuple[list[str], int]:
        found, pages = list[str](), 0
        async with aclosing(
            api._pages(as_it_is(methods.LIST_VOLUMES), ListVolumesRequest(), WAIT_S)
        ) as walk:
            async for page in walk:
                found += [one.name for one in page.volumes]
                pages += 1
        return found, pages

    async def lines(api: ApiClient) -> tuple[list[str], set[int]]:
        found, generations = list[str](), set[int]()
        async with aclosing(
            api._pages(as_it_is(methods.AUTHORITY_STATUS), AuthorityStatusRequest(), WAIT_S)
        ) as walk:
            async for page in walk:
                found += [one.volume_id for one in page.lines]
                generations.add(page.master_generation)
        return found, generations

    async def nodes(api: ApiClient) -> list[str]:
        details = await api.get_node("node-0007", timeout_s=WAIT_S)
        assert len(details.volumes_left) == VOLUMES * 3 // NODES
        assert await api.list_secrets(timeout_s=WAIT_S) == ()
        return [one.node_id for one in await api.list_nodes(timeout_s=WAIT_S)]

    with master.steps(monkeypatch) as steps:
        assert asked(master, volumes) == (expected, VOLUMES // PAGE_SIZE)
        assert asked(master, lines) == (expected, {1})
        assert asked(master, nodes) == [f"node-{number:04d}" for number in range(NODES)]
    held_up_nobody(steps, at_least=VOLUMES // PAGE_SIZE)


@pytest.mark.timeout(600)
def test_a_change_looks_only_at_the_volumes_that_it_concerns(
    master: MasterThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node's wanted state at those placed there, a secret at those that name one, a placement at counts."""
    monkeypatch.setattr(volume_service, "GATHER_S", 0.0)

    async def change(api: ApiClient) -> None:
        for state in ("cordoned", "active"):
            details = await api.set_node_state("node-0007", state, timeout_s=WAIT_S)
            assert details.node.desired_state == state
            assert len(details.volumes_left) == VOLUMES * 3 // NODES
        for value in (b"0123456789abcdef", b"fedcba9876543210"):
            await api.set_secret(Secret(name="s1", value=value), timeout_s=WAIT_S)
        await api.delete_secret("s1", timeout_s=WAIT_S)
        wish = CreateVolumeRequest(name="one-more", size_bytes=1 << 30, replication_factor=3)
        with pytest.raises(FailedPrecondition, match="Only 0 of 3 replicas"):
            await api.create_volume(wish, timeout_s=WAIT_S)

    with master.steps(monkeypatch) as steps:
        asked(master, change)
    held_up_nobody(steps, at_least=6)
