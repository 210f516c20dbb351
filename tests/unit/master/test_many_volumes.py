"""A master with 100,000 volumes, as many as it is made for: lists come whole, in pages, and hold up nobody."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from asyncio import events as asyncio_events
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any, Self

import pytest
import structlog

from bench.scale import Cluster
from sparrow.authority.types import DesiredVolume, Line, LoadedLines
from sparrow.master.app import Master
from sparrow.ports.store import LoadedVolumes
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.paging import PAGE_SIZE
from sparrow.store.memory import MemoryDisk, MemoryStore

VOLUMES = 100_000
NODES = 1_000
#: Processor time of one step of the event loop. Not wall time: on a busy machine that says how busy it is.
PAUSE_S = 0.05
#: For a page, on a busy machine.
WAIT_S = 60.0
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


@pytest.mark.timeout(600)
def test_all_volumes_and_all_lines_are_listed_and_the_masters_loop_is_never_held_up(
    master: MasterThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [f"pvc-{number:08d}" for number in range(VOLUMES)]

    async def volumes() -> tuple[list[str], int]:
        found, pages = list[str](), 0
        async with (
            ApiClient(master.address) as api,
            aclosing(api.volume_pages(timeout_s=WAIT_S)) as walk,
        ):
            async for page in walk:
                found += [one.name for one in page.volumes]
                pages += 1
        return found, pages

    async def lines() -> tuple[list[str], set[int]]:
        found, generations = list[str](), set[int]()
        async with (
            ApiClient(master.address) as api,
            aclosing(api.authority_pages(timeout_s=WAIT_S)) as walk,
        ):
            async for page in walk:
                found += [one.volume_id for one in page.lines]
                generations.add(page.master_generation)
        return found, generations

    async def nodes() -> list[str]:
        async with ApiClient(master.address) as api:
            details = await api.get_node("node-0007", timeout_s=WAIT_S)
            assert len(details.volumes_left) == VOLUMES * 3 // NODES
            assert await api.list_secrets(timeout_s=WAIT_S) == ()
            return [one.node_id for one in await api.list_nodes(timeout_s=WAIT_S)]

    with master.steps(monkeypatch) as steps:
        assert asyncio.run(volumes()) == (expected, VOLUMES // PAGE_SIZE)
        assert asyncio.run(lines()) == (expected, {1})
        assert asyncio.run(nodes()) == [f"node-{number:04d}" for number in range(NODES)]
    own = [step for step in steps if step[1] not in BACKGROUND]
    assert len(own) > VOLUMES // PAGE_SIZE, "the steps of the calls were measured"
    assert max(own)[0] < PAUSE_S, sorted(own, reverse=True)[:5]
