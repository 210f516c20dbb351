"""Tasks that are watched: a failure is never silent, and shutting down has an order.

A process has one :class:`Supervisor`. What must stop last is pushed first: :meth:`Supervisor.stop` cancels the
tasks, then closes resources in reverse order of :meth:`Supervisor.on_stop`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from structlog.typing import FilteringBoundLogger

#: A step of the shutdown that takes longer is given up and reported, so that the process does end.
STOP_STEP_S = 5.0


class Supervisor:
    """Owns background tasks and the shutdown order of one process. Thread: the event loop's."""

    def __init__(self, log: FilteringBoundLogger) -> None:
        self._log = log
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closers: list[tuple[str, Callable[[], Awaitable[None]]]] = []
        self._stopping = False
        #: Set when a task that must live for ever ended: the process should stop.
        self.failed = asyncio.Event()
        self.failure: BaseException | None = None

    def spawn(
        self, work: Coroutine[Any, Any, Any], *, name: str, vital: bool = False
    ) -> asyncio.Task[Any]:
        """Run in the background. An error is logged; if ``vital`` it ends the process, as does simply returning."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._ended(done, vital=vital))
        return task

    def on_stop(self, name: str, closer: Callable[[], Awaitable[None]]) -> None:
        """Close this at shutdown, after everything registered later."""
        self._closers.append((name, closer))

    async def stop(self) -> None:
        """Cancel all tasks, then close what was registered, newest first. Errors are logged, never raised."""
        self._stopping = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=STOP_STEP_S)
        while self._closers:
            name, closer = self._closers.pop()
            try:
                async with asyncio.timeout(STOP_STEP_S):
                    await closer()
            except Exception:  # noqa: BLE001 - whatever goes wrong, the next step of the shutdown still runs
                self._log.exception("shutdown.step_failed", step=name)

    def _ended(self, task: asyncio.Task[Any], *, vital: bool) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._log.error("task.failed", task=task.get_name(), exc_info=error)
        if vital and not self._stopping:
            self.failure = error or RuntimeError(f"{task.get_name()} ended")
            self.failed.set()
