"""Child processes that are started, watched, restarted when they die, and stopped in order.

A child says that it is ready with one JSON object on its standard output that has the key ``ready``; whatever else
it prints goes to its log file. It runs in a session of its own, so that Ctrl-C reaches only this process, which then
stops its children in its own order.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, Final

from sparrow.base.errors import FailedPrecondition, TimedOut
from sparrow.runtime.parent import PARENT_VARIABLE

#: How long a child may take until its ready line.
READY_S: Final = 30.0
#: How long a child may take to stop when asked; then it is killed.
STOP_S: Final = 10.0
#: Wait before a restart: doubled from the first to the last, back to the first after a good while.
BACKOFF_S: Final = (0.5, 10.0)
GOOD_WHILE_S: Final = 30.0
#: A log file larger than this is set aside (one old one is kept) when its child starts.
LOG_BYTES_MAX: Final = 64 << 20
LOG_TAIL_LINES: Final = 8


class ChildState(StrEnum):
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run. ``log_path`` takes its standard error and, after the ready line, its standard output."""

    name: str
    arguments: tuple[str, ...]
    log_path: Path


@dataclass(slots=True, kw_only=True)
class Child:
    """One child as it is now; ``ready`` is the content of its newest ready line."""

    spec: ChildSpec
    state: ChildState = ChildState.STARTING
    pid: int = 0
    restarts: int = 0
    ready: Mapping[str, Any] = field(default_factory=dict)
    #: How the last process ended, in words, with the end of its log.
    ended: str = ""
    log_tail: tuple[str, ...] = ()
    process: asyncio.subprocess.Process | None = None
    keeper: asyncio.Task[None] | None = None
    stopping: asyncio.Event = field(default_factory=asyncio.Event)


class ChildFailed(FailedPrecondition, code="child.failed"):
    """A child process ended before it was ready."""


class Children:
    """The children of this process. Thread: the event loop's.

    Args:
        on_change: called after each change of a child's state.
    """

    def __init__(self, on_change: Callable[[Child], None]) -> None:
        self._on_change = on_change
        self._children: dict[str, Child] = {}

    @property
    def children(self) -> Sequence[Child]:
        """In the order in which they were started."""
        return tuple(self._children.values())

    async def start(self, spec: ChildSpec) -> Child:
        """Start a child and wait until it is ready; from then on it is restarted whenever it ends.

        Raises:
            ChildFailed: it ended before that; the hint is the end of its log.
            TimedOut: it was not ready after ``READY_S`` and was killed.
        """
        assert spec.name not in self._children
        child = Child(spec=spec)
        self._children[spec.name] = child
        await self._launch(child)
        child.keeper = asyncio.get_running_loop().create_task(self._keep(child), name=spec.name)
        return child

    async def stop(self, names: Sequence[str]) -> None:
        """Ask these children to end, all at once; kill by process id what is still there after ``STOP_S``."""
        await asyncio.gather(*(self._stop(self._children[name]) for name in names))

    async def _launch(self, child: Child) -> None:
        child.state = ChildState.STARTING
        _set_aside(child.spec.log_path)
        with child.spec.log_path.open("ab") as log:
            child.process = await asyncio.create_subprocess_exec(
                *child.spec.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                start_new_session=True,
            )
        child.pid = child.process.pid
        self._on_change(child)
        try:
            async with asyncio.timeout(READY_S):
                ready = await _ready_line(child)
        except TimeoutError:
            await self._kill(child)
            child.state = ChildState.STOPPED
            raise TimedOut(
                f"{child.spec.name} was not ready after {READY_S:g} s and was killed.",
                hint=f"Look at {child.spec.log_path}.",
            ) from None
        except asyncio.CancelledError:
            await self._kill(child)
            raise
        if ready is None:
            await self._note_end(child)
            child.state = ChildState.STOPPED
            raise ChildFailed(
                f"{child.spec.name} ended with {child.ended} before it was ready.",
                hint="\n".join(("The end of its log:", *child.log_tail)),
            )
        child.ready = ready
        child.state = ChildState.READY
        self._on_change(child)

    async def _keep(self, child: Child) -> None:
        """Restart the child each time it ends, until it is to stop."""
        loop = asyncio.get_running_loop()
        backoff = BACKOFF_S[0]
        while True:
            started = loop.time()
            if child.state is ChildState.READY:
                await self._drain(child)
                await self._note_end(child)
            if child.stopping.is_set():
                child.state = ChildState.STOPPED
                self._on_change(child)
                return
            child.state = ChildState.RESTARTING
            child.restarts += 1
            self._on_change(child)
            backoff = BACKOFF_S[0] if loop.time() - started > GOOD_WHILE_S else backoff
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff):
                    await child.stopping.wait()
            backoff = min(2 * backoff, BACKOFF_S[1])
            if not child.stopping.is_set():
                with suppress(ChildFailed, TimedOut):
                    await self._launch(child)

    async def _drain(self, child: Child) -> None:
        """Copy standard output to the log until it ends; a full pipe would stop the child."""
        assert child.process is not None
        assert child.process.stdout is not None
        with child.spec.log_path.open("ab") as log:
            while chunk := await child.process.stdout.read(1 << 16):
                log.write(chunk)
                log.flush()

    async def _note_end(self, child: Child) -> None:
        assert child.process is not None
        child.ended = how_it_ended(await child.process.wait())
        child.log_tail = tail(child.spec.log_path)
        child.pid = 0

    async def _stop(self, child: Child) -> None:
        child.stopping.set()
        _signal(child, signal.SIGTERM)
        if child.keeper is None:
            await self._kill(child)
            return
        done, _ = await asyncio.wait([child.keeper], timeout=STOP_S)
        if not done:
            # Also ends a child that was stopped by SIGSTOP and never saw the request.
            _signal(child, signal.SIGKILL)
            await asyncio.wait([child.keeper], timeout=STOP_S)

    async def _kill(self, child: Child) -> None:
        _signal(child, signal.SIGKILL)
        if child.process is not None:
            await child.process.wait()
            child.pid = 0


def how_it_ended(returncode: int) -> str:
    """``exit status 3`` or ``signal SIGKILL``."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {signal.Signals(-returncode).name}"
    except ValueError:
        return f"signal {-returncode}"


def tail(path: Path, *, lines: int = LOG_TAIL_LINES) -> tuple[str, ...]:
    """The last lines of a log; nothing when it cannot be read."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - (1 << 14)))
            text = file.read().decode(errors="replace")
    except OSError:
        return ()
    return tuple(text.splitlines()[-lines:])


async def _ready_line(child: Child) -> Mapping[str, Any] | None:
    """The child's ready line; None when its output ended without one. What came before goes to the log."""
    assert child.process is not None
    assert child.process.stdout is not None
    with child.spec.log_path.open("ab") as log:
        while line := await child.process.stdout.readline():
            found = parse_ready(line)
            if found is not None:
                return found
            log.write(line)
    return None


def parse_ready(line: bytes) -> Mapping[str, Any] | None:
    """The JSON object of a ready line; None for any other line."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "ready" in found else None


def _signal(child: Child, number: signal.Signals) -> None:
    # The transport knows whether the process was reaped, so a recycled pid is never signalled.
    if child.process is not None and child.process.returncode is None:
        with suppress(ProcessLookupError):
            child.process.send_signal(number)


def _set_aside(path: Path) -> None:
    with suppress(FileNotFoundError):
        if path.stat().st_size > LOG_BYTES_MAX:
            path.replace(path.with_suffix(path.suffix + ".1"))


def write_atomically(path: Path, text: str) -> None:
    """Replace a file as a whole: readers see the old text or the new one, also after a crash."""
    draft = path.with_name(path.name + ".draft")
    with draft.open("w") as file:
        file.write(text)
        _sync(file)
    draft.replace(path)


def _sync(file: IO[str]) -> None:
    file.flush()
    os.fsync(file.fileno())
