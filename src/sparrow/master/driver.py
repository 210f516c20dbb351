"""The one place where the authority loop meets time, the store and the network.

BEFORE a step: nothing of it is known to anybody. The step itself makes lines durable (the publisher writes through).
AFTER it, and only then, its effects are carried out. A step never awaits, so two never mix.

Writes run in the event loop on purpose: one SQLite commit with ``synchronous=FULL`` takes about a millisecond on an SSD
(docs/decisions/0002-store-writes-in-loop.md has the measurement), heartbeats come twice a second, and a write that
ran elsewhere would let a second event see half a decision. A disk that stalls shows as ``step.ran_long``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final, assert_never

from structlog.typing import FilteringBoundLogger

from sparrow.authority.effects import (
    AskAnswer,
    Deliver,
    LogEvent,
    LoopEffect,
    PhaseChanged,
    VolumeGone,
    WakeAt,
)
from sparrow.authority.events import (
    HeartbeatReceived,
    LoopEvent,
    NodeAsk,
    PlannedAsk,
    StreamClosed,
    StreamOpened,
    Tick,
)
from sparrow.authority.loop import AuthorityLoop
from sparrow.authority.results import AskResult
from sparrow.authority.types import Ask, DesiredVolume
from sparrow.base import events
from sparrow.base.errors import InvalidArgument, SparrowError, Unavailable
from sparrow.base.ids import NodeId, VolumeId
from sparrow.master.outbox import Outbox
from sparrow.ports.clock import Clock
from sparrow.ports.store import AuthorityStore

#: A step longer than this is reported: heartbeats wait behind it.
STEP_S: Final = 0.1
#: A wake-up that is due at once still lets other events in between.
WAKE_S_MIN: Final = 0.001
#: Heartbeats that say nothing new wake who waits for a change only this often: what they wait for is no news of nodes
#: then, but time, or something another call wrote. Less than a heartbeat's period, so that of one node's each does.
LOOK_S: Final = 0.4
#: What the store did not forget is tried again after this.
FORGET_AGAIN_S: Final = 0.5


class Driver:
    """Feeds the loop and carries out its effects. Thread: the event loop's.

    Args:
        authority: not started yet.
        store: for desired volumes; lines go through the loop's publisher alone.
    """

    def __init__(
        self,
        authority: AuthorityLoop,
        store: AuthorityStore,
        clock: Clock,
        log: FilteringBoundLogger,
    ) -> None:
        self.authority = authority
        self.clock = clock
        self._store = store
        self._log = log
        self._streams: dict[NodeId, tuple[int, Outbox]] = {}
        self._stream_count = 0
        self._asks: dict[int, asyncio.Future[AskResult]] = {}
        self._ask_count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._tick_at = math.inf
        #: No tick before this: what a tick took is left to the events that waited for it.
        self._rest_until = -math.inf
        self._changed = asyncio.Event()
        #: When who waits for a change was woken last.
        self._looked_at = -math.inf
        self._stopped = False
        #: Set when a step failed in a way that only a bug can cause: the process must end and start again.
        self.failed = asyncio.Event()
        self.failure: Exception | None = None

    def start(self, desired: tuple[DesiredVolume, ...]) -> None:
        """Load the lines and begin; no event may be fed before. Raises StorageError: do not serve."""
        self._carry_out(self.authority.start(desired, self.clock.now()))
        self._wake_waiting(self.clock.now())

    def stop(self) -> None:
        """Feed nothing any more; streams end."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for _, outbox in self._streams.values():
            outbox.close()

    def feed(self, event: LoopEvent) -> None:
        """One step and its effects. Raises InvalidArgument: the event makes no sense, nothing happened."""
        if self._stopped:
            return
        began = self.clock.now()
        try:
            effects = self.authority.step(event, began)
            if isinstance(event, Tick):
                decided = self.clock.now()
                self._rest_until = decided + (decided - began)
            self._carry_out(effects)
            if began >= self._looked_at + LOOK_S or not _nothing_new(event, effects):
                self._wake_waiting(began)
        except InvalidArgument:
            raise
        except Exception as error:
            # Half a step may have happened: what is in memory is not to be trusted any more, what is stored is.
            self.failure = error
            self.stop()
            self.failed.set()
            raise
        took = self.clock.now() - began
        if took > STEP_S:
            self._log.warning(
                events.STEP_RAN_LONG, step=type(event).__name__, ms=round(took * 1000)
            )

    # ---------------------------------------------------------------- streams and asks

    def open_stream(self, node_id: NodeId, incarnation: int) -> tuple[int, Outbox]:
        """Begin a node's stream, ending an older one; an empty outbox means the loop refused the incarnation."""
        self._stream_count += 1
        stream_id, outbox = self._stream_count, Outbox()
        older = self._streams.get(node_id)
        self._streams[node_id] = (stream_id, outbox)
        self.feed(StreamOpened(node_id=node_id, incarnation=incarnation, stream_id=stream_id))
        if outbox.empty and older is not None:
            self._streams[node_id] = older
        elif older is not None:
            older[1].close()
        return stream_id, outbox

    def close_stream(self, node_id: NodeId, stream_id: int) -> None:
        """A node's stream ended, however; early evidence that the node is gone."""
        held = self._streams.get(node_id)
        if held is not None and held[0] == stream_id:
            del self._streams[node_id]
        self.feed(StreamClosed(node_id=node_id, stream_id=stream_id))

    async def ask(self, node_id: NodeId, ask: Ask) -> AskResult:
        """Apply a node's ask."""
        if self._stopped:
            raise Unavailable("The master is stopping.", hint="Ask again.")
        self._ask_count += 1
        token = self._ask_count
        answer: asyncio.Future[AskResult] = asyncio.get_running_loop().create_future()
        self._asks[token] = answer
        try:
            self.feed(NodeAsk(token=token, node_id=node_id, ask=ask))
            return await answer
        finally:
            self._asks.pop(token, None)

    def plan(self, ask: Ask) -> AskResult:
        """Apply an ask of an operator's plan. Raises: Unavailable: the master is stopping."""
        self._ask_count += 1
        token = self._ask_count
        answer: asyncio.Future[AskResult] = asyncio.get_running_loop().create_future()
        self._asks[token] = answer
        try:
            self.feed(PlannedAsk(token=token, ask=ask))
        finally:
            self._asks.pop(token, None)
        if not answer.done():
            raise Unavailable("The master is stopping.", hint="Ask again.")
        return answer.result()

    async def changed(self) -> None:
        """Wait for the next step that may have changed something."""
        await self._changed.wait()

    async def until(self, holds: Callable[[], bool], *, timeout_s: float) -> bool:
        """Wait for a step after which ``holds()``; False when that took too long."""
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                while not holds():
                    await self._changed.wait()
        except TimeoutError:
            return holds()
        return True

    # ---------------------------------------------------------------- effects

    def _carry_out(self, effects: list[LoopEffect]) -> None:
        for effect in effects:
            match effect:
                case Deliver():
                    stream_id, outbox = self._streams.get(effect.node_id, (0, None))
                    if outbox is not None and stream_id == effect.stream_id:
                        outbox.put(effect.instruction)
                case AskAnswer():
                    waiting = self._asks.get(effect.token)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(effect.result)
                case PhaseChanged():
                    self._record_phase(effect)
                case VolumeGone():
                    self._forget(effect.volume_id)
                case LogEvent():
                    write = self._log.error if effect.failed else self._log.info
                    write(effect.name, **effect.fields)
                case WakeAt():
                    self._wake_at(effect.at)
                case _:
                    assert_never(effect)

    def _wake_waiting(self, now: float) -> None:
        """Everybody who waits looks once; a new event is made, so that nobody is woken by an old one."""
        self._looked_at = now
        self._changed.set()
        self._changed = asyncio.Event()

    def _record_phase(self, effect: PhaseChanged) -> None:
        """A phase that was not recorded is found again after a restart: the loop derives it from the line."""
        volume = self.authority.desired(effect.volume_id)
        if volume is None:
            return
        try:
            self._store.update_volume(replace(volume, phase=effect.phase))
        except SparrowError as error:
            self._log.error(events.STORE_FAILED, volume=effect.volume_id, cause=str(error))

    def _forget(self, volume_id: VolumeId) -> None:
        """Until the store does: a row that stays keeps the name taken for a volume that nobody knows any more.

        After a restart it is taken up as deleting, and forgotten then.
        """
        if self._stopped:
            return
        try:
            self._store.delete_volume(volume_id)
        except SparrowError as error:
            self._log.error(events.STORE_FAILED, volume=volume_id, cause=str(error))
            asyncio.get_running_loop().call_later(FORGET_AGAIN_S, self._forget, volume_id)
        else:
            self._log.info(events.VOLUME_DELETED, volume=volume_id)

    def _wake_at(self, at: float) -> None:
        """A tick at ``at`` or earlier; one that comes too early changes nothing and is planned anew.

        A tick that is planned already is not put off: while events come faster than ``WAKE_S_MIN`` none would ever
        come, and what is left to ticks (``loop.STEP_VOLUMES_MAX``) would wait for as long.
        """
        if self._timer is not None:
            if self._tick_at <= at:
                return
            self._timer.cancel()
        self._tick_at = at
        wait_s = max(WAKE_S_MIN, max(at, self._rest_until) - self.clock.now())
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.feed(Tick())


def _nothing_new(event: LoopEvent, effects: list[LoopEffect]) -> bool:
    """Whether the step took a heartbeat of the same facts as the one before, and nothing came of it."""
    return (
        isinstance(event, HeartbeatReceived)
        and event.observation.base_revision is not None
        and not event.observation.slots
        and not event.observation.removed
        and all(isinstance(effect, WakeAt) for effect in effects)
    )
