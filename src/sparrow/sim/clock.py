"""An event loop on made-up time that runs one callback per step, and the processes that live on it.

A process is a context variable: whatever is started inside one belongs to it, reads its own clock and dies with it. A
killed process runs nothing any more, not even its ``finally``; a stopped one runs everything when it is continued.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import sys
import warnings
from collections.abc import Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final, TypeVarTuple, Unpack

Ts = TypeVarTuple("Ts")

START_S: Final = 1000.0
#: What a callback costs: time goes on, also for those who look at the clock until it has.
STEP_S: Final = 1e-6
#: Everybody's current process; None is the world itself, whose clock is true.
PROCESS: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


class Killed(BaseException):
    """Thrown where a process dies in the middle of a call; nothing of the process may run after it."""


class Process:
    """One process of the simulation.

    Args:
        rate: seconds its clock counts per true second.
        offset: what its clock shows beyond that, seconds.
    """

    def __init__(self, loop: SimLoop, name: str, *, rate: float = 1.0, offset: float = 0.0) -> None:
        self.name = name
        self.rate = rate
        self.offset = offset
        self.alive = True
        self.stopped = False
        self._loop = loop
        self._held: list[Step] = []
        self.context = contextvars.copy_context()
        self.context.run(PROCESS.set, self)

    def clock(self) -> float:
        """Its own time, whoever asks."""
        return self._loop.now * self.rate + self.offset

    def true_time(self, local: float) -> float:
        return (local - self.offset) / self.rate

    def spawn(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Start a task inside the process."""
        return self._loop.create_task(work, name=f"{self.name}:{name}", context=self.context.copy())

    def soon(self, call: Callable[..., object], *args: Any) -> None:
        """Run something inside the process, at the next turn."""
        self._loop.call_soon(call, *args, context=self.context.copy())

    def meets(self, delay_s: float, call: Callable[..., object], *args: Any) -> None:
        """Something comes from outside after so many true seconds."""
        self._loop.at(delay_s, call, *args, context=self.context)

    def kill(self) -> None:
        """SIGKILL."""
        self.alive = False
        self._loop.bury(self._held)

    def stop(self) -> None:
        """SIGSTOP."""
        self.stopped = True

    def go_on(self) -> None:
        """SIGCONT: what fell due meanwhile runs now, in the order in which it fell due."""
        self.stopped = False
        held, self._held = self._held, []
        self._loop.requeue(held)

    def hold(self, step: Step) -> None:
        self._held.append(step)


@contextmanager
def unheard() -> Iterator[None]:
    """Collect what is left over at the end of this block, and let nobody hear what it does on its way."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _error: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
            gc.collect()
    finally:
        sys.unraisablehook = hook


class Step(asyncio.TimerHandle):
    """A callback to come, without what the base class keeps for debugging: a run makes hundreds of them per second."""

    __slots__ = ()

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback: Callable[..., object] | None = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._scheduled = False
        self._when = when

    def cancel(self) -> None:
        self._cancelled = True
        self._callback = None
        self._args = ()


class SimLoop(asyncio.BaseEventLoop):
    """Time jumps to the next timer when nothing is ready; equal moments keep the order of their scheduling."""

    def __init__(self) -> None:
        super().__init__()
        self.now = START_S
        self.steps = 0
        #: Called after every callback that ran.
        self.after_step: Callable[[], None] = lambda: None
        self._end = START_S
        self._last = 0
        self._queue: list[tuple[float, int, Step]] = []
        self._count = 0
        #: Strong references: a task that is garbage-collected would run its ``finally`` at a time of nobody's choosing.
        self._all: list[asyncio.Task[Any]] = []
        self._prune_at = 1024
        self._buried: list[Step] = []
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        process = PROCESS.get()
        return self.now if process is None else process.clock()

    def call_soon(
        self,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Step:
        step = Step(0.0, callback, args, self, context)
        self._ready.append(step)  # type: ignore[attr-defined]  # the base class's queue of ready handles
        return step

    def call_later(
        self,
        delay: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Step:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self,
        when: float,
        callback: Callable[[Unpack[Ts]], object],
        *args: *Ts,
        context: contextvars.Context | None = None,
    ) -> Step:
        """As asyncio has it; ``when`` is on the clock of the calling process."""
        process = PROCESS.get()
        true = when if process is None else process.true_time(when)
        timer = Step(true, callback, args, self, context)
        self._count += 1
        heapq.heappush(self._queue, (true, self._count, timer))
        return timer

    def at(
        self,
        delay_s: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> Step:
        """Let the world do something after so many true seconds, or another context."""
        timer = Step(self.now + delay_s, callback, args, self, context or WORLD)
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay_s, self._count, timer))
        return timer

    def requeue(self, steps: list[Step]) -> None:
        self._ready.extend(steps)  # type: ignore[attr-defined]

    def _run_once(self) -> None:
        """All steps of one ``run_for``, for a look at what the base class has to do between them would cost a tenth."""
        ready, after_step = self._ready, self.after_step  # type: ignore[attr-defined]
        while self.now < self._end and self.steps < self._last:
            step: Step | None = ready.popleft() if ready else self._next_timer()
            if step is None or step._cancelled:  # noqa: SLF001 - asked for at every step
                continue
            process = step._context.get(PROCESS)  # noqa: SLF001 - handles have no accessor
            if process is not None:
                if not process.alive:
                    self._buried.append(step)
                    continue
                if process.stopped:
                    process.hold(step)
                    continue
            step._run()  # noqa: SLF001 - what a loop is there for
            self.steps += 1
            self.now += STEP_S
            after_step()
        self.stop()

    def run_for(self, seconds: float, *, steps: int) -> None:
        """Let so much true time pass, or so many steps, whichever is less."""
        self._end, self._last = self.now + seconds, self.steps + steps
        self.run_forever()

    def _next_timer(self) -> Step | None:
        """None when the end comes first."""
        while self._queue:
            when, _, timer = self._queue[0]
            if when > self._end and not timer.cancelled():
                self.now = self._end
                return None
            heapq.heappop(self._queue)
            if not timer.cancelled():
                self.now = max(self.now, when)
                return timer
        self.now = self._end
        return None

    def _make_task(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(work, loop=loop, context=context)
        if len(self._all) >= self._prune_at:
            self._all = [one for one in self._all if not one.done()]
            self._prune_at = 2 * len(self._all) + 1024
        self._all.append(task)
        return task

    def bury(self, steps: list[Step]) -> None:
        """Keep what a dead process would have run: dropped now, it would be collected and run its ``finally``."""
        self._buried.extend(steps)

    def finish(self) -> None:
        """Let go of everything, for the very end. What tasks do when they are closed concerns nobody any more.

        They are closed one by one while all are still held: a collection that closes one may free what closes it again
        meanwhile, which ends CPython 3.11 itself.
        """
        self.after_step = lambda: None
        with unheard():
            for task in [one for one in self._all if not one.done()]:
                with suppress(Exception, asyncio.CancelledError):
                    task.get_coro().close()
            for some in (self._buried, self._all, self._queue, self._ready):  # type: ignore[attr-defined]
                some.clear()

    # What a loop on real sockets needs and this one does not have.

    def _process_events(self, event_list: list[Any]) -> None:
        raise AssertionError("there is no selector")

    def _write_to_self(self) -> None:
        pass

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        pass


#: The context of no process.
WORLD: Final = contextvars.copy_context()
