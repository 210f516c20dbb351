"""``make bench-fence``: how late the native fence timer closes a gate whose grants have stopped.

Two data planes in one process, the primary's and the peer's, as two nodes have them. Every volume needs the peer's
grant over a link of its own; the link is cut, the right runs out, and the core's own event says how long after its
deadline the gate was closed. First with nothing else to do, then with clients that keep both reactors and the disk
busy; --hogs adds processes that only burn processor time. Ends with one line, figures in microseconds:

    fence_lateness_us idle p50: .. p99: .. load p50: .. p99: ..
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from bench.machine import cpu_model
from sparrow.authority.types import Term
from sparrow.base.constants import GRANT_S
from sparrow.base.ids import Epoch, Lsn, ReplicaId, VolumeId
from sparrow.dataplane.native.plane import NativeDataPlane
from sparrow.ports.dataplane import (
    CoreEvent,
    GateClosed,
    GateOpened,
    JoinOutcome,
    Membership,
    SessionParameters,
)
from tests.support.leave import end_on_sigterm
from tests.support.places import disk_directory

PAGE: Final = 4096
SIZE_BYTES: Final = 64 << 20
VOLUMES: Final = 8
SLOT: Final = 0
POOL_PAGES: Final = 16384
#: A gate that is neither open nor closed after this: the measurement is broken.
PATIENCE_S: Final = 10 * GRANT_S
PRIMARY, PEER = ReplicaId("p"), ReplicaId("f")
BUSY = VolumeId("busy")
#: Goals for the 99.9th percentile, microseconds.
GOALS_US: Final = {"idle": 1000, "load": 5000}


class NotMeasured(RuntimeError):
    """The volumes did not do what the measurement needs."""


@dataclass(slots=True, kw_only=True)
class Gate:
    """One volume's gate and the link its grants come over."""

    volume_id: VolumeId
    node_key: int
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    closed: asyncio.Event = field(default_factory=asyncio.Event)
    lateness_us: int = 0
    cause: str = ""
    #: The asking end, to be cut from here.
    link: socket.socket | None = None


class Pair:
    """A primary and its peer with ``VOLUMES`` replicated volumes and one that is there to be kept busy."""

    def __init__(self, primary: NativeDataPlane, peer: NativeDataPlane) -> None:
        self.primary = primary
        self.peer = peer
        self.gates = {
            VolumeId(f"v{number}"): Gate(volume_id=VolumeId(f"v{number}"), node_key=number + 1)
            for number in range(VOLUMES)
        }

    def on_event(self, event: CoreEvent) -> None:
        gate = self.gates.get(getattr(event, "volume_id", VolumeId("")))
        if gate is None:
            return
        if isinstance(event, GateOpened):
            gate.opened.set()
        elif isinstance(event, GateClosed):
            gate.lateness_us, gate.cause = event.lateness_us, event.cause
            gate.closed.set()

    async def open(self) -> None:
        """Format, fence, join and open everything."""
        await self._open_alone(BUSY)
        for gate in self.gates.values():
            await self._open_pair(gate)
        for gate in self.gates.values():
            await within(gate.opened.wait(), f"{gate.volume_id} was not opened")

    async def lapse(self, gate: Gate) -> int:
        """Cut a gate's grants, wait until it closes; how late that was. It is open again at the end."""
        assert gate.link is not None
        gate.closed.clear()
        gate.opened.clear()
        gate.link.shutdown(socket.SHUT_RDWR)
        gate.link.close()
        await within(gate.closed.wait(), f"{gate.volume_id} was not closed")
        if gate.cause != "grant":
            raise NotMeasured(f"{gate.volume_id} was closed by {gate.cause}")
        await self._grant(gate)
        await within(gate.opened.wait(), f"{gate.volume_id} was not opened again")
        return gate.lateness_us

    async def _open_alone(self, volume_id: VolumeId) -> None:
        core = self.primary
        await core.format_replica(volume_id, PRIMARY, size_bytes=SIZE_BYTES, block_size=PAGE)
        await core.open_replica(volume_id)
        await core.begin_term(volume_id, Epoch(1))
        await core.set_membership(volume_id, Membership(needed=(), writable=True))
        await core.commit_inherited(volume_id)
        await core.open_gate(volume_id, wait_ms=0)

    async def _open_pair(self, gate: Gate) -> None:
        volume_id = gate.volume_id
        for core, name in ((self.primary, PRIMARY), (self.peer, PEER)):
            await core.format_replica(volume_id, name, size_bytes=SIZE_BYTES, block_size=PAGE)
        log = (await self.primary.open_replica(volume_id)).log
        await self.peer.open_replica(volume_id)
        term: Term = await self.primary.begin_term(volume_id, Epoch(1))
        await self.peer.fence(volume_id, term, PRIMARY)
        outcome, joined_lsn, _ = await self.peer.join(volume_id, term, log)
        if outcome is not JoinOutcome.JOINED:
            raise NotMeasured(f"{volume_id} was not joined: {outcome}")
        ours, theirs = connected()
        await self.peer.receive(volume_id, theirs.detach(), term)
        await self.primary.ship(
            volume_id,
            SLOT,
            gate.node_key,
            ours.detach(),
            joined_lsn=Lsn(joined_lsn),
        )
        await self._grant(gate)
        await self.primary.set_membership(volume_id, Membership(needed=(SLOT,), writable=True))
        await self.primary.commit_inherited(volume_id)
        await self.primary.open_gate(volume_id, wait_ms=0)

    async def _grant(self, gate: Gate) -> None:
        ours, theirs = connected()
        gate.link = ours.dup()
        await self.peer.grant_serve_link(theirs.detach())
        await self.primary.grant_ask_link(gate.node_key, ours.detach())


@contextlib.asynccontextmanager
async def opened_pair(folder: Path) -> AsyncIterator[Pair]:
    """Both data planes on a disk, started, and everything on them open."""
    for name in ("p", "f"):
        (folder / name / "volumes").mkdir(parents=True)
    primary = NativeDataPlane(folder / "p", node_id="p", pool_pages=POOL_PAGES)
    peer = NativeDataPlane(folder / "f", node_id="f", pool_pages=POOL_PAGES)
    pair = Pair(primary, peer)
    primary.start(pair.on_event)
    peer.start(lambda _event: None)
    try:
        await pair.open()
        yield pair
    finally:
        await primary.stop()
        await peer.stop()


async def measure(pair: Pair, count: int, seed: int) -> list[int]:
    """Lateness of ``count`` closings, microseconds; the volumes lapse independently of each other."""
    choose = random.Random(seed)
    left = itertools.count()
    found: list[int] = []

    async def turn(gate: Gate) -> None:
        while next(left) < count:
            await asyncio.sleep(choose.uniform(0, GRANT_S / 4))
            found.append(await pair.lapse(gate))

    await asyncio.gather(*(turn(gate) for gate in pair.gates.values()))
    return sorted(found)


# ------------------------------------------------------------------------------------------------ load


class Client:
    """A thread that keeps ``depth`` durable writes and reads of random pages in flight over iSCSI."""

    WRITE_EVERY = 2

    def __init__(self, sock: socket.socket, depth: int) -> None:
        self.done = 0
        self._sock = sock
        self._depth = depth
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End it; what is in flight is answered to nobody."""
        self._stop.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()

    def _run(self) -> None:
        data = os.urandom(PAGE)
        numbers = random.Random(0)
        stream = self._sock.makefile("rb")
        sent, stat_sn = 0, 0
        try:
            while not self._stop.is_set():
                window = bytearray()
                while sent < self.done + self._depth:
                    lba = numbers.randrange(SIZE_BYTES // PAGE)
                    write = sent % self.WRITE_EVERY == 0
                    window += command(sent, stat_sn, lba, data if write else b"")
                    sent += 1
                self._sock.sendall(window)
                answered = 0
                while answered < self._depth // 2:
                    header = stream.read(48)
                    stream.read(int.from_bytes(header[5:8], "big"))
                    stat_sn = int.from_bytes(header[24:28], "big") + 1
                    answered += header[0] & 0x3F == 0x21 or bool(header[1] & 0x01)
                self.done += answered
        except (OSError, ValueError, IndexError):
            if not self._stop.is_set():
                raise


def command(number: int, exp_stat_sn: int, lba: int, data: bytes) -> bytes:
    """A SCSI Command PDU for one page: WRITE(10) with immediate data, READ(10) without.

    Source: RFC 7143, 11.3.
    """
    flags, opcode = (0xA1, 0x2A) if data else (0xC1, 0x28)
    cdb = struct.pack(">BBIBHB6x", opcode, 0, lba, 0, 1, 0)
    header = struct.pack(
        ">BBxxB3s8sIIII",
        0x01,
        flags,
        0,
        len(data).to_bytes(3, "big"),
        bytes(8),
        number & 0x7FFFFFFF,
        PAGE,
        number + 1,
        exp_stat_sn,
    )
    return header + cdb + data


@contextlib.asynccontextmanager
async def kept_busy(pair: Pair, clients: int, hogs: int) -> AsyncIterator[list[Client]]:
    """Sessions with commands always in flight, and as many spinning processes as asked for."""
    running: list[Client] = []
    for key in range(1, clients + 1):
        ours, theirs = connected()
        ours.setblocking(True)
        await pair.primary.adopt_session(BUSY, theirs.detach(), session(key))
        running.append(Client(ours, depth=32))
    with spinning(hogs):
        try:
            yield running
        finally:
            for client in running:
                await asyncio.to_thread(client.stop)


@contextlib.contextmanager
def spinning(count: int) -> Iterator[None]:
    """Processes that take whatever the scheduler gives them."""
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def session(key: int) -> SessionParameters:
    return SessionParameters(
        session_key=key,
        tsih=key,
        cid=1,
        exp_cmd_sn=1,
        stat_sn=1,
        initiator_recv_bytes_max=256 << 10,
        target_recv_bytes_max=256 << 10,
        max_burst_bytes=256 << 10,
        first_burst_bytes=64 << 10,
        max_outstanding_r2t=1,
        initial_r2t=True,
        immediate_data=True,
        header_digest=False,
        data_digest=False,
        reinstated=False,
        pending=b"",
    )


# ------------------------------------------------------------------------------------------------ small ones


def connected() -> tuple[socket.socket, socket.socket]:
    """Two ends of one TCP connection, not blocking."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    for end in (one, other):
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end.setblocking(False)
    return one, other


async def within(waiting: Coroutine[object, object, object], complaint: str) -> None:
    try:
        await asyncio.wait_for(waiting, PATIENCE_S)
    except TimeoutError:
        raise NotMeasured(complaint) from None


def percentile(values: Sequence[int], part: float) -> int:
    """The smallest value that ``part`` of the sorted values do not exceed."""
    return values[min(len(values) - 1, max(0, -int(-part * len(values) // 1) - 1))]


def describe(name: str, lateness_us: Sequence[int], note: str) -> str:
    p50, p99, p999 = (percentile(lateness_us, part) for part in (0.5, 0.99, 0.999))
    goal = "reached" if p999 < GOALS_US[name] else "NOT reached"
    return (
        f"{name}: {len(lateness_us)} closings, lateness in us: p50 {p50}, p99 {p99}, p99.9 {p999}, "
        f"max {lateness_us[-1]}; goal p99.9 < {GOALS_US[name]}: {goal}{note}"
    )


async def run(folder: Path, count: int, clients: int, hogs: int) -> str:
    """Measure both; says what was found, and gives the last line."""
    async with opened_pair(folder) as pair:
        idle = await measure(pair, count, seed=1)
        print(describe("idle", idle, ""), flush=True)
        async with kept_busy(pair, clients, hogs) as running:
            began, before = asyncio.get_running_loop().time(), sum(one.done for one in running)
            load = await measure(pair, count, seed=2)
            seconds = asyncio.get_running_loop().time() - began
            rate = (sum(one.done for one in running) - before) / seconds
        if rate == 0:
            raise NotMeasured("the clients were answered nothing")
        print(describe("load", load, f"; beside {rate:.0f} requests/s"), flush=True)
    figures = (
        f"{name} p50: {percentile(values, 0.5)} p99: {percentile(values, 0.99)}"
        for name, values in (("idle", idle), ("load", load))
    )
    return f"fence_lateness_us {' '.join(figures)}"


def main() -> int:
    parser = argparse.ArgumentParser(description="How late the native fence timer is.")
    parser.add_argument("--count", type=int, default=200, help="closings per part")
    parser.add_argument("--clients", type=int, default=2, help="busy sessions under load")
    parser.add_argument("--hogs", type=int, default=0, help="spinning processes under load")
    options = parser.parse_args()
    end_on_sigterm()
    load_before = " ".join(Path("/proc/loadavg").read_text().split()[:3])
    print(f"{cpu_model()}, {os.cpu_count()} processors, load before: {load_before}", flush=True)
    with disk_directory("fence") as folder:
        print(asyncio.run(run(folder, options.count, options.clients, options.hogs)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
