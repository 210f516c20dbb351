"""The driver: effects after the step, one timer, and no step after one that failed."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import cast

import pytest
import structlog
from structlog.testing import capture_logs

from sparrow.authority.effects import (
    Deliver,
    LogEvent,
    LoopEffect,
    PhaseChanged,
    Synced,
    VolumeGone,
    WakeAt,
)
from sparrow.authority.events import HeartbeatReceived, LoopEvent, StreamOpened, Tick
from sparrow.authority.loop import AuthorityLoop
from sparrow.authority.types import (
    Ask,
    DesiredVolume,
    Intent,
    Observation,
    PlacedSlot,
    SlotName,
    VolumePhase,
    VolumeShape,
)
from sparrow.base.errors import InvalidArgument, Unavailable
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from sparrow.master import driver as driver_module
from sparrow.master.driver import Driver
from sparrow.store.memory import MemoryStore
from tests.support.waiting import WAIT_S

VOLUME = DesiredVolume(
    volume_id=VolumeId("a"),
    shape=VolumeShape(size_bytes=1 << 20, block_size=4096, replication_factor=1, min_in_sync=1),
    slots=(PlacedSlot(replica_id=ReplicaId("r1"), node_id=NodeId("n1")),),
)


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def now(self) -> float:
        return self.time


class ScriptedLoop:
    """Answers each event with the next list of effects, or raises it."""

    def __init__(self, *script: list[LoopEffect] | Exception) -> None:
        self.script = list(script)
        self.events: list[LoopEvent] = []
        self.ticked = asyncio.Event()

    def step(self, event: LoopEvent, now: float) -> list[LoopEffect]:
        self.events.append(event)
        if isinstance(event, Tick):
            self.ticked.set()
        answer = self.script.pop(0) if self.script else []
        if isinstance(answer, Exception):
            raise answer
        return answer

    def desired(self, volume_id: VolumeId) -> DesiredVolume | None:
        return VOLUME


def driver_of(loop: ScriptedLoop) -> tuple[Driver, MemoryStore, Clock]:
    store, clock = MemoryStore(), Clock()
    store.create_volume(VOLUME)
    made = Driver(cast(AuthorityLoop, loop), store, clock, structlog.get_logger())
    return made, store, clock


def phases(store: MemoryStore) -> list[VolumePhase]:
    return [volume.phase for volume in store.load_volumes().volumes]


async def test_a_new_phase_is_recorded_and_a_gone_volume_forgotten() -> None:
    driver, store, _ = driver_of(
        ScriptedLoop(
            [PhaseChanged(volume_id=VolumeId("a"), phase=VolumePhase.ACTIVE)],
            [VolumeGone(volume_id=VolumeId("a"))],
        )
    )
    driver.feed(Tick())
    assert phases(store) == [VolumePhase.ACTIVE]
    driver.feed(Tick())
    assert phases(store) == []


async def test_a_record_that_the_store_does_not_take_is_logged_and_not_the_end() -> None:
    gone = VolumeGone(volume_id=VolumeId("a"))
    driver, store, _ = driver_of(ScriptedLoop([gone, LogEvent(name="x.happened")]))
    store.disk.fail_next()
    with capture_logs() as logs:
        driver.feed(Tick())
    assert [entry["event"] for entry in logs] == ["store.failed", "x.happened"]
    assert not driver.failed.is_set()
    assert phases(store) == [VolumePhase.CREATING]


async def test_what_a_person_must_act_on_is_an_error_in_the_log() -> None:
    failed = LogEvent(name="ask.failed", failed=True, fields={"hint": "Make room."})
    driver, _, _ = driver_of(ScriptedLoop([failed, LogEvent(name="x.happened")]))
    with capture_logs() as logs:
        driver.feed(Tick())
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("ask.failed", "error"),
        ("x.happened", "info"),
    ]
    assert logs[0]["hint"] == "Make room."


async def test_a_volume_that_the_store_did_not_forget_is_forgotten_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else its name would stay taken, for a volume nobody knows, until the master starts again."""
    monkeypatch.setattr(driver_module, "FORGET_AGAIN_S", 0.0)
    driver, store, _ = driver_of(ScriptedLoop([VolumeGone(volume_id=VolumeId("a"))]))
    store.disk.fail_next(times=2)
    driver.feed(Tick())
    assert phases(store) == [VolumePhase.CREATING]
    with capture_logs() as logs:
        for _ in range(10):
            await asyncio.sleep(0)
    assert phases(store) == []
    assert [entry["event"] for entry in logs] == ["store.failed", "volume.deleted"]


async def test_the_loop_is_ticked_when_it_wanted_to_be() -> None:
    loop = ScriptedLoop([WakeAt(at=100.01)])
    driver, _, _ = driver_of(loop)
    driver.feed(StreamOpened(node_id=NodeId("n1"), incarnation=1, stream_id=1))
    async with asyncio.timeout(WAIT_S):
        await loop.ticked.wait()


async def test_a_tick_that_is_planned_is_not_put_off_by_events_that_come_faster() -> None:
    loop = ScriptedLoop()
    driver, _, _ = driver_of(loop)
    async with asyncio.timeout(WAIT_S):
        while not loop.ticked.is_set():
            loop.script = [[WakeAt(at=100.0)]]
            driver.feed(StreamOpened(node_id=NodeId("n1"), incarnation=1, stream_id=1))
            await asyncio.sleep(0)
    driver.stop()


async def test_what_a_tick_took_is_left_to_others_before_the_next() -> None:
    loop = ScriptedLoop(*[[WakeAt(at=100.0)] for _ in range(2)])
    driver, _, clock = driver_of(loop)
    times: list[float] = []
    step = loop.step

    def slow(event: LoopEvent, now: float) -> list[LoopEffect]:
        times.append(asyncio.get_running_loop().time())
        clock.time += 0.3
        return step(event, now)

    loop.step = slow  # type: ignore[method-assign]
    driver.feed(Tick())
    loop.ticked.clear()
    async with asyncio.timeout(WAIT_S):
        await loop.ticked.wait()
    driver.stop()
    assert times[1] - times[0] >= 0.29


async def test_a_step_that_fails_for_no_known_reason_ends_the_process() -> None:
    loop = ScriptedLoop(ZeroDivisionError("a bug"))
    driver, _, _ = driver_of(loop)
    with pytest.raises(ZeroDivisionError):
        driver.feed(Tick())
    assert driver.failed.is_set()
    assert isinstance(driver.failure, ZeroDivisionError)
    driver.feed(Tick())
    assert len(loop.events) == 1, "nothing is fed to a loop that may be half-way through a step"
    ask = Ask(intent=Intent.RETIRE, volume_id=VolumeId("a"), replica_id=ReplicaId(""), basis=None)
    with pytest.raises(Unavailable):
        await driver.ask(NodeId("n1"), ask)


async def test_an_event_that_makes_no_sense_is_refused_and_the_next_one_taken() -> None:
    loop = ScriptedLoop(InvalidArgument("no"), [])
    driver, _, _ = driver_of(loop)
    with pytest.raises(InvalidArgument):
        driver.feed(Tick())
    driver.feed(Tick())
    assert not driver.failed.is_set()


async def test_an_instruction_for_an_older_stream_is_dropped() -> None:
    def synced(stream_id: int) -> Deliver:
        instruction = Synced(master_generation=stream_id)
        return Deliver(node_id=NodeId("n1"), stream_id=stream_id, instruction=instruction)

    driver, _, _ = driver_of(ScriptedLoop([synced(1)], [synced(1), synced(2)]))
    _, first = driver.open_stream(NodeId("n1"), 1)
    _, second = driver.open_stream(NodeId("n1"), 1)
    assert await second.take() == [Synced(master_generation=2)]
    assert await first.take() == [], "the older stream ended"


async def test_a_stream_that_the_loop_refuses_does_not_end_the_one_before() -> None:
    hello = Deliver(node_id=NodeId("n1"), stream_id=1, instruction=Synced(master_generation=1))
    driver, _, _ = driver_of(ScriptedLoop([hello], [], [replace(hello)]))
    _, first = driver.open_stream(NodeId("n1"), 2)
    assert await first.take() == [Synced(master_generation=1)]
    _, refused = driver.open_stream(NodeId("n1"), 1)
    assert refused.empty
    driver.feed(Tick())
    assert await first.take() == [Synced(master_generation=1)]


async def test_waiting_sees_each_step_and_gives_up_in_time() -> None:
    loop = ScriptedLoop()
    driver, _, _ = driver_of(loop)
    waiting = asyncio.create_task(driver.until(lambda: len(loop.events) >= 2, timeout_s=WAIT_S))
    for _ in range(2):
        await asyncio.sleep(0)
        driver.feed(Tick())
    assert await waiting
    assert not await driver.until(lambda: False, timeout_s=0.01)


def beat(base_revision: int | None = 1, removed: tuple[SlotName, ...] = ()) -> HeartbeatReceived:
    return HeartbeatReceived(
        observation=Observation(
            node_id=NodeId("n1"),
            incarnation=1,
            sequence=2,
            received_at=100.0,
            revision=1,
            base_revision=base_revision,
            removed=removed,
        )
    )


async def test_heartbeats_without_news_wake_nobody_but_for_a_look_now_and_then() -> None:
    seen = LogEvent(name="node.seen", fields={}, failed=False)
    gone = (SlotName(volume_id=VOLUME.volume_id, replica_id=ReplicaId("r1")),)
    driver, _, clock = driver_of(ScriptedLoop([], [], [], [seen], [], []))

    async def wakes(event: LoopEvent) -> bool:
        waiting = asyncio.ensure_future(driver.changed())
        await asyncio.sleep(0)
        driver.feed(event)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        woken = waiting.done()
        waiting.cancel()
        return woken

    assert await wakes(beat()), "nobody looked yet"
    assert not await wakes(beat())
    clock.time += driver_module.LOOK_S
    assert await wakes(beat()), (
        "what depends on time, or on another call, is looked at now and then"
    )
    assert await wakes(beat()), "something came of it"
    assert not await wakes(beat())
    assert await wakes(beat(removed=gone))
    assert await wakes(beat(base_revision=None))
    driver.stop()
