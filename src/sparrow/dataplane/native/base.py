"""What every part uses: the core, the volumes that are in it, and a command with its answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path

from sparrow._native.core import COMMANDS
from sparrow.base.errors import NotFound, Unavailable
from sparrow.base.ids import LinkId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.dataplane import durability
from sparrow.dataplane.events import Mail
from sparrow.dataplane.files.descriptors import DirectFiles, ReplicaFiles
from sparrow.dataplane.machine import POOL_PAGES, CoreSizes, KernelMachine, Machine
from sparrow.dataplane.native.errors import error_of
from sparrow.dataplane.wal_device import WalDevice
from sparrow.ports.dataplane import CoreEvent, RecoverySettings, VolumeStatus


@dataclass(slots=True, kw_only=True)
class OpenVolume:
    """A volume that is in the core."""

    volume_id: VolumeId
    index: int
    replica_id: ReplicaId
    uuid: ReplicaUuid
    files: ReplicaFiles
    #: Opened by the first step of a scrub.
    direct: DirectFiles | None = None
    #: Volumes of one file system share its room.
    file_system: int
    #: What the core said of it last; it says nothing again that is still so.
    status: VolumeStatus | None = None
    #: By slot, the newest link that the core began to feed.
    links: dict[int, LinkId] = field(default_factory=dict)


class Base:
    """A core and what is in it. ``pool`` is the directory that holds ``volumes/``.

    ``share_from`` says from how many log writes on flushes are shared; None lets the logs' device decide.
    ``wal_device`` holds the logs; without one each is a file beside its replica's other files. A ``machine``
    stands in for pool, device and this process's kernel. ``hold_off`` is how long nothing opens after the start,
    seconds; None for the usual. ``cache_pages`` is what the read cache may keep. ``writes_fd`` is an open file that
    stays open until nothing written here is under way any more (``node.pool``), ``flush_file`` a file of the pool that
    nobody writes; without it a shared flush is asked of one of the logs.
    """

    def __init__(
        self,
        pool: Path,
        *,
        node_id: str = "",
        pool_pages: int = POOL_PAGES,
        cache_pages: int = 0,
        share_from: int | None = None,
        wal_device: WalDevice | None = None,
        machine: Machine | None = None,
        sizes: CoreSizes | None = None,
        hold_off: float | None = None,
        writes_fd: int | None = None,
        flush_file: Path | None = None,
        recovery: RecoverySettings | None = None,
    ) -> None:
        self._machine = machine or KernelMachine(
            pool,
            name=f"reactor {node_id}".strip(),
            wal_device=wal_device,
            hold_off=hold_off,
            writes_fd=writes_fd,
            flush_file=flush_file,
        )
        recovery = recovery or RecoverySettings()
        self._core = self._machine.make_core(
            replace(
                sizes or CoreSizes(pages=pool_pages, cache_pages=cache_pages),
                rebuild_rate=recovery.rebuild_rate_mib << 20,
                rebuild_stretch_percent=recovery.rebuild_stretch_percent,
                wal_pin_percent=recovery.wal_pin_percent,
            ),
            share_from=durability.share_from(pool if wal_device is None else wal_device.path)
            if share_from is None
            else share_from,
        )
        self._volumes: dict[VolumeId, OpenVolume] = {}
        self._by_index: dict[int, OpenVolume] = {}
        self._sessions: dict[int, VolumeId] = {}
        self._waiting: dict[int, asyncio.Future[Mail]] = {}
        #: What is done with an answer before the mail behind it is looked at.
        self._heard: dict[int, Callable[[Mail], None]] = {}
        self._next_token = 1
        self._next_index = 1
        #: Serial of the newest answer about all volumes that was taken; 0 for none.
        self._taken = 0
        #: What it told then; None when a volume has come or gone since, or said something new.
        self._statuses: dict[VolumeId, VolumeStatus] | None = None
        #: Of each file system, the pages it had left when that was told last, and what the core had told by then.
        self._told_room: dict[int, tuple[int, dict[VolumeId, VolumeStatus]]] = {}
        self._on_event: Callable[[CoreEvent], None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._room: asyncio.Task[None] | None = None
        self._working: set[asyncio.Task[None]] = set()

    async def _send(
        self,
        command: str,
        volume: int,
        *,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        flags: int = 0,
        data: bytes = b"",
        socket_fd: int = -1,
        heard: Callable[[Mail], None] | None = None,
    ) -> Mail:
        """Post it and wait. ``socket_fd`` is closed when the core does not get it.

        ``heard`` gets the answer before the mail behind it is looked at, whatever becomes of who waits here.
        """
        assert self._loop is not None, "started"
        token = self._next_token
        self._next_token += 1
        future: asyncio.Future[Mail] = self._loop.create_future()
        self._waiting[token] = future
        if heard is not None:
            self._heard[token] = heard
        if not self._core.post(COMMANDS[command], volume, token, a, b, c, d, flags, data):
            del self._waiting[token]
            self._heard.pop(token, None)
            self._close_socket(socket_fd)
            raise Unavailable("The core has more commands than it can take at once.")
        return await future

    def _close_socket(self, fd: int) -> None:
        if fd >= 0:
            self._machine.close_socket(fd)

    def _tell(
        self, command: str, *, a: int, b: int, c: int = 0, d: int = 0, data: bytes = b""
    ) -> None:
        """A command nobody waits for; lost only when the core is hopelessly behind, then the session times out."""
        self._core.post(COMMANDS[command], 0, 0, a, b, c, d, 0, data)

    def _open(self, volume_id: VolumeId) -> OpenVolume:
        volume = self._volumes.get(volume_id)
        if volume is None:
            raise NotFound(f"Volume {volume_id!r} has no open replica on this node.")
        return volume

    async def _call(
        self,
        command: str,
        volume_id: VolumeId,
        *,
        a: int = 0,
        b: int = 0,
        c: int = 0,
        d: int = 0,
        flags: int = 0,
        data: bytes = b"",
        socket_fd: int = -1,
        heard: Callable[[Mail], None] | None = None,
    ) -> Mail:
        """A command to a volume; its errors as exceptions. A socket is the core's, or closed, whatever happens."""
        if volume_id not in self._volumes:
            self._close_socket(socket_fd)
        volume = self._open(volume_id)
        answer = await self._send(
            command,
            volume.index,
            a=a,
            b=b,
            c=c,
            d=d,
            flags=flags,
            data=data,
            socket_fd=socket_fd,
            heard=heard,
        )
        if answer.rc < 0:
            raise error_of(command, volume_id, answer)
        return answer

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        assert self._loop is not None, "started"
        task = self._loop.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
