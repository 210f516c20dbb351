"""A node's process: settings, the pool's lock, the core; then replicas open while the rest of the program is loaded.

What is imported here is only what opening needs, a third of the whole: the other two thirds (``node.app`` with the
frontends and the calls) are loaded on a thread meanwhile. A start with 200 volumes is most of all processor time and
disk time, and these two overlap so.

Safety argument of the order. The core is made when the pool's locks are held, so the process before has ended, and
every write that it left to the kernel as well: whatever it granted was granted before that moment. The hold-off, in
which nothing may open, counts from the making of the core (``_native/core.pyx``), so it covers all of it however early
in the life of this process it begins (S6).
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import uvloop

from sparrow.base import events as names
from sparrow.base.ids import NodeId
from sparrow.node.config import NodeSettings, check_memory, read_cache_bytes, validate
from sparrow.node.found import Found
from sparrow.node.pool import Pool
from sparrow.ports.dataplane import DataPlane, RecoverySettings
from sparrow.runtime.config import load
from sparrow.runtime.garbage import loading
from sparrow.runtime.memory import usable_bytes

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from sparrow.dataplane.wal_device import WalDevice
    from sparrow.node.app import Node

#: While the program is loaded on one thread, others come to their turn this soon: most turns are a system call long.
TURN_S: Final = 0.0002


def main(arguments: Sequence[str]) -> int:
    """Run a node until SIGTERM or SIGINT; returns the exit status.

    Raises:
        ConfigError: settings that cannot be used, also for want of memory, or an address that is taken.
        FailedPrecondition: the pool is in use.
        MachineUnfit: the core cannot run here.
        StorageError: the pool cannot be read or written.
    """
    loaded = load(NodeSettings, arguments=arguments, environment=os.environ, validate=validate)
    if loaded.print_only:
        print(loaded.explained())
        return 0
    return run(loaded.settings)


def run(settings: NodeSettings) -> int:
    """Run a node with these settings, on the native core."""
    memory = usable_bytes()
    check_memory(settings, memory)
    with ExitStack() as held:
        try:
            with ended_by_signals():
                pool, wal_device = _hold(settings, held)
                with loading():
                    from sparrow.dataplane.machine import CoreSizes  # noqa: PLC0415 - printing settings needs no core
                    from sparrow.dataplane.native.plane import NativeDataPlane  # noqa: PLC0415 - the same
        except _Ended:
            return 0

        def make() -> DataPlane:
            recovery = RecoverySettings(
                rebuild_rate_mib=settings.rebuild_rate_mib,
                rebuild_stretch_percent=settings.rebuild_stretch_percent,
                wal_pin_percent=settings.wal_pin_percent,
            )
            return NativeDataPlane(
                pool.directory,
                node_id=settings.node_id,
                sizes=CoreSizes.of_buffer(
                    settings.buffer_mib << 20, cache_bytes=read_cache_bytes(settings, memory)
                ),
                wal_device=wal_device,
                hold_off=pool.hold_off_s,
                writes_fd=pool.writes_fd,
                flush_file=pool.flush_file,
                recovery=recovery,
            )

        return uvloop.run(_run(settings, pool, make))


def _hold(settings: NodeSettings, held: ExitStack) -> tuple[Pool, WalDevice | None]:
    """The pool, and the device of its logs if there is one; ``held`` lets go of them. May wait for their disks."""
    node_id, tell = NodeId(settings.node_id), partial(_tell, settings)
    pool = Pool.open(settings.pool, node_id, tell=tell)
    held.callback(pool.close)
    if not settings.wal_device:
        return pool, None
    with loading():
        from sparrow.dataplane.wal_device import WalDevice  # noqa: PLC0415 - few nodes have one

    device = WalDevice.open(Path(settings.wal_device), node_id, tell=tell)
    held.callback(device.close)
    return pool, device


def _tell(settings: NodeSettings, path: Path) -> None:
    """Say what the start waits for; on another thread."""
    from sparrow.runtime.logs import set_up  # noqa: PLC0415 - an ordinary start loads it later

    set_up(process=f"node:{settings.node_id}", level=settings.log_level).warning(
        names.DISK_AWAITED,
        path=str(path),
        cause="Writes of a process that was killed have not reached it yet, or another program has it locked.",
        hint="The start goes on when they have; look at the disk. /proc/locks tells who locks what.",
    )


class _Ended(BaseException):
    """SIGINT or SIGTERM arrived before there is a loop: not an error, somebody wants us to end."""


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGINT and SIGTERM raise; the kernel keeps the latter from the first process of a container that handles none."""

    def end(*_: object) -> None:
        raise _Ended

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _run(settings: NodeSettings, pool: Pool, make: Callable[[], DataPlane]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    dataplane = make()
    found = Found(dataplane)
    found.begin()
    try:
        with loading(), short_turns():
            build, log = await asyncio.to_thread(_load, settings)
        node = build(settings, pool, dataplane, log, found)
    except BaseException:
        await found.give_up()
        raise
    try:
        await node.start()
        print(json.dumps(node.ready_line()), flush=True)
        waiting = [asyncio.ensure_future(e.wait()) for e in (stop, node.supervisor.failed)]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
    finally:
        failure = node.supervisor.failure
        if failure is not None:
            log.critical(names.PROCESS_DIED, cause=repr(failure), exc_info=failure)
        await node.stop()
    return 0 if failure is None else 1


def _load(settings: NodeSettings) -> tuple[type[Node], FilteringBoundLogger]:
    """The rest of the program."""
    from sparrow.node.app import Node  # noqa: PLC0415 - see the top
    from sparrow.runtime.logs import set_up  # noqa: PLC0415 - the same

    return Node, set_up(process=f"node:{settings.node_id}", level=settings.log_level)


@contextmanager
def short_turns() -> Iterator[None]:
    """Threads take turns at the interpreter more often than usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(TURN_S)
    try:
        yield
    finally:
        sys.setswitchinterval(usual)
