"""What goes wrong besides: disks that are slow, fail, rot, lose writes or run full, and clocks that jump or are slewed.

A volume survives what one of its disks does while the others are whole, so one run does one of the worse things: it
wipes a disk, has one fail, or has one rot. They begin only while every volume has all its copies and every process
runs, and nothing else goes wrong before they are over.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Final, cast

from sparrow.authority.types import Line, Member
from sparrow.base.constants import PAGE_BYTES
from sparrow.base.ids import NodeId, VolumeId
from sparrow.dataplane.files.superblock import choose_superblock
from sparrow.dataplane.virtual import Room, VirtualReplica
from sparrow.formats.superblock import SUPERBLOCK, SUPERBLOCK_BYTES
from sparrow.formats.wal import BATCH, WAL_MAGIC
from sparrow.sim.compiled.client import RUN_MAX
from sparrow.sim.compiled.content import page_of
from sparrow.sim.compiled.fencing import RECORDS
from sparrow.sim.compiled.world import CompiledWorld
from sparrow.sim.faults import Faults
from sparrow.sim.world import World

#: chrony's fastest slew (S13); only clocks that follow it are slewed, the raw one is not.
SLEW_PPM: Final = 80_000
#: What a run does to its disks, and how often in it.
THEMES: Final = ("wipe", "errors", "errors", "rot", "rot", "none")
WIPES_MAX: Final = 3
ERRORS_MAX: Final = 2
ROTS_MAX: Final = 12
#: How long a disk fails, looked at this often, and how soon one that failed is replaced.
ERRORS_S: Final = 0.4
LOOK_S: Final = 0.02
REPLACED_S: Final = 0.5
#: Floods of one run; each writes more than a log holds, on pages that no client reads.
FLOODS: Final = (0, 1, 2, 3)
FLOOD_PAGES: Final = 2800
FLOODED: Final = tuple(range(24, 120, RUN_MAX)) + tuple(range(136, 248, RUN_MAX))
#: In a large volume: granules that are all data, with nothing between these places.
FAR_APART: Final = (4096, 150_000, 380_000)
FLOODED_LARGE: Final = tuple(
    first for place in FAR_APART for first in range(place, place + 768, RUN_MAX)
)
FLOOD_AT_ONCE: Final = 4
FLOOD_PAUSE_S: Final = 0.02
#: Chance that a copy is struck while it is under way, and when.
AMID_COPY_CHANCE: Final = 0.5
AMID_COPY_S: Final = (0.01, 1.5)
AMID_COPY_PAGES: Final = 160
AWAY_S: Final = (4.0, 25.0)
SLOWLY_NS: Final = 500_000_000
STANDS_STILL_S: Final = (0.3, 8.0)
#: Batches at the end of a log that are left alone: of the last one nobody could tell rot from a torn tail.
TAIL_BATCHES: Final = 3


def batches(room: Room, files: VirtualReplica) -> list[tuple[int, int]]:
    """Offset and size of the batches in the log, oldest first, found as recovery finds them."""
    both = room.pread(files.superblock_fd, 0, 2 * SUPERBLOCK_BYTES)
    best, _ = choose_superblock([both[:SUPERBLOCK_BYTES], both[SUPERBLOCK_BYTES:]], Path())
    head = SUPERBLOCK.unpack(best)
    at, lsn = head.number("tail_offset"), head.number("tail_lsn")
    parent, end = head.number("tail_check"), head.number("wal_bytes")
    found: list[tuple[int, int]] = []
    while True:
        for offset in (at, 0) if at + PAGE_BYTES <= end else (0,):
            raw = room.pread(files.wal_fd, offset, BATCH.size)
            if raw[:8] != WAL_MAGIC.to_bytes(8, "little"):
                continue
            batch = BATCH.unpack(raw)
            if batch.number("first_lsn") == lsn + 1 and batch.number("parent") == parent:
                size = (batch.number("header_blocks") + batch.number("page_count")) * PAGE_BYTES
                found.append((offset, size))
                at, parent = offset + size, batch.number("check")
                lsn += batch.number("entry_count")
                break
        else:
            return found


class CompiledFaults(Faults):
    """Draws from more kinds than the model knows."""

    def __init__(self, world: World, rng: Random) -> None:
        self._cluster = cast(CompiledWorld, world)
        self._room = self._cluster.room
        self._hosts = self._cluster.hosts
        self._theme = rng.choice(THEMES)
        self._left = {"errors": ERRORS_MAX, "rot": ROTS_MAX}.get(self._theme, 0)
        #: The disk that rots: the others of its volumes stay whole.
        self._rotten = rng.choice(world.names)
        #: A disk is failing: nothing else goes wrong meanwhile.
        self._failing = False
        self._floods = rng.choice(FLOODS)
        #: Writes of all floods.
        self._flooded = 0
        super().__init__(world, rng)
        self._cluster.on_copy = self._copy_begins
        for client in self._cluster.block_clients().values():
            client.join_initiators()
        self._wipes = WIPES_MAX if self._theme == "wipe" else 0
        if self._theme == "errors":
            world.loop.at(REPLACED_S, self._replace_failed)

    def _more(self) -> list[tuple[int, Callable[[], None]]]:
        kinds: list[tuple[int, Callable[[], None]]] = [
            (2, self._slow_disk),
            (2, self._suspend),
            (2, self._no_room),
            (2, self._stop_initiator),
        ]
        if self._theme != "rot":
            # Who is away past the log needs a copy, and a page that rotted meanwhile is nowhere whole any more.
            kinds += [(2, self._long_outage), (1, self._flood_a_slow_disk)]
        if self._theme == "wipe":
            kinds.append((3, self._wipe_disk))
        if self._theme == "errors":
            kinds.append((6, self._disk_fails))
        if self._theme == "rot":
            kinds += [(4, self._rot), (2, self._lose_write), (2, self._misdirect)]
        return kinds

    def heal(self) -> None:
        for name in self._world.names:
            self._works_again(name)
        super().heal()

    def _strike(self) -> None:
        if self._failing and self.on:
            self._next()
        else:
            super()._strike()

    def _host(self, name: NodeId) -> int:
        return self._hosts[name]

    def _works_again(self, name: NodeId) -> None:
        self._room.faults(self._host(name))
        self._cluster.virtual_pool(name).capacity = None

    def _calm(self) -> bool:
        """Every copy of every volume is there and everybody runs: one disk may do what it likes."""
        world = self._cluster
        running = [node for node in world.living_nodes() if not node.process.stopped]
        return (
            world.whole
            and len(running) == len(world.names)
            and not world.network.cut
            and not any(self._is_condemned(name) for name in world.names)
        )

    def _recycle_log(self) -> None:
        """Logs of compiled cores wrap by themselves."""

    # ------------------------------------------------------------ slow, full, failing

    def _slow_disk(self) -> None:
        name = self._node()
        slow_ns = self._rng.choice((20_000_000, 300_000_000, 3_000_000_000))
        self._world.note("disk.slow", node=name, ns=slow_ns)
        self._room.faults(
            self._host(name), slow=self._rng.choice((20_000, 500_000)), slow_ns=slow_ns
        )
        self._later(0.2, 4.0, partial(self._works_again, name))

    def _no_room(self) -> None:
        """The pool runs full, and after a while has room again."""
        name = self._node()
        pages = self._room.held(self._host(name)) + self._rng.choice((0, 4, 40))
        self._world.note("disk.full", node=name, pages=pages)
        self._room.faults(self._host(name), capacity=pages)
        self._cluster.virtual_pool(name).capacity = pages
        self._later(0.5, 5.0, partial(self._works_again, name))

    def _disk_fails(self) -> None:
        """Reads, writes or flushes end with EIO, until one of them has condemned a replica."""
        if self._left == 0 or not self._calm():
            return
        self._left -= 1
        self._failing = True
        name = self._node()
        kind = self._rng.choice(("eio_read", "eio_write", "eio_write"))
        self._world.note("disk.failing", node=name, kind=kind)
        chance = {"eio_read": (200_000, 0), "eio_write": (0, 200_000)}[kind]
        self._room.faults(self._host(name), eio_read=chance[0], eio_write=chance[1])
        end = self._world.loop.now + ERRORS_S

        def look() -> None:
            if self.on and self._world.loop.now < end and not self._is_condemned(name):
                self._world.loop.at(LOOK_S, look)
                return
            self._failing = False
            self._works_again(name)
            self._world.note("disk.failed", node=name, condemned=self._is_condemned(name))

        look()

    def _is_condemned(self, name: NodeId) -> bool:
        node = self._cluster.nodes.get(name)
        if node is None:
            return False
        plane = self._cluster.plane_of(node)
        return any(
            (inside := plane.look(volume_id)) is not None and inside.condemned
            for volume_id in plane.pool.files
        )

    def _replace_failed(self) -> None:
        """A person puts an empty disk in the place of one that failed, when no volume has its last copy on it."""
        world = self._cluster
        for name in world.names:
            if self._is_condemned(name) and self._spared(name):
                world.wipe_node(name)
                world.loop.at(REPLACED_S, partial(world.start_node, name))
        world.loop.at(REPLACED_S, self._replace_failed)

    def _spared(self, name: NodeId) -> bool:
        """Whether every volume has an in-sync copy elsewhere that is up."""
        world = self._cluster
        return all(
            any(
                member.node_id != name and member.node_id in world.nodes
                for member in self._in_sync(volume_id)
            )
            for volume_id in world.virtual_pool(name).files
        )

    def _in_sync(self, volume_id: VolumeId) -> list[Member]:
        line = self._world.checkers.newest.get(volume_id)
        if not isinstance(line, Line):
            return []
        return [member for member in line.members if member.replica_id in line.in_sync]

    # ------------------------------------------------------------ clients, and what they leave behind

    def _stop_initiator(self) -> None:
        """One stands still: its commands are answered, and it hears of it late."""
        client = self._rng.choice(list(self._cluster.block_clients().values()))
        seconds = self._rng.uniform(*STANDS_STILL_S)
        self._world.note("initiator.stopped", volume=client.volume_id, seconds=seconds)
        self._rng.choice(client.initiators).stand_still(seconds)

    def _long_outage(self) -> None:
        """A node stays away while more is written than logs hold: it comes back by a copy."""
        if self._floods == 0:
            return
        self._floods -= 1
        name = self._node()
        self._world.kill_node(name, silently=self._rng.random() < 0.5)
        self._later(*AWAY_S, partial(self._world.start_node, name))
        self._later(1.0, 3.0, partial(self._flood, FLOOD_PAGES))

    def _copy_begins(self, source: NodeId) -> None:
        """It is written to meanwhile, perhaps without some replica that hears it, and then whoever copies dies."""
        if not self.on or self._rng.random() >= AMID_COPY_CHANCE:
            return
        self._world.note("copy.struck", node=source)
        self._flood(AMID_COPY_PAGES)
        if self._rng.random() < 0.5:
            other = self._node()
            if other != source:
                self._cut([(str(source), str(other))])
        if self._rng.random() < 0.7:
            self._later(*AMID_COPY_S, partial(self._strike_down, source))

    def _strike_down(self, name: NodeId) -> None:
        self._world.kill_node(name, silently=self._rng.random() < 0.5)
        self._later(0.2, 5.0, partial(self._world.start_node, name))

    def _flood_a_slow_disk(self) -> None:
        """More is written than a log holds while one disk does not keep up: logs run full."""
        if self._floods == 0:
            return
        self._floods -= 1
        name = self._node()
        self._world.note("disk.slow", node=name, ns=SLOWLY_NS)
        self._room.faults(self._host(name), slow=500_000, slow_ns=SLOWLY_NS)
        self._later(2.0, 6.0, partial(self._works_again, name))
        self._flood(FLOOD_PAGES)

    def _flood(self, left: int) -> None:
        """Write so many pages that nobody reads, as fast as they are taken."""
        self._world.note("flood.began", pages=left)
        volume_id = self._rng.choice(sorted(self._cluster.block_clients()))
        client = self._cluster.block_clients()[volume_id]
        where = FLOODED_LARGE if self._world.shape.large else FLOODED

        def some(left: int) -> None:
            if not self.on or left <= 0:
                return
            for node in self._world.living_nodes():
                plane = self._cluster.plane_of(node)
                if node.process.stopped or not plane.may_serve(volume_id):
                    continue
                for _ in range(FLOOD_AT_ONCE):
                    first = self._rng.choice(where)
                    self._flooded += 1
                    pages = range(first, first + RUN_MAX)
                    client.flooded.update(pages)
                    data = b"".join(page_of(page, self._flooded) for page in pages)
                    nexus = self._rng.choice(RECORDS)
                    if plane.submit(volume_id, "write", first, RUN_MAX, data, nexus=nexus):
                        left -= RUN_MAX
            self._world.loop.at(FLOOD_PAUSE_S, some, left)

        self._world.loop.at(FLOOD_PAUSE_S, some, left)

    # ------------------------------------------------------------ rot

    def _victim(self) -> tuple[VolumeId, VirtualReplica] | None:
        """A replica on the disk that rots, if it may do so now."""
        files = self._cluster.virtual_pool(self._rotten).files
        if self._left == 0 or not files or not self._calm():
            return None
        self._left -= 1
        volume_id = self._rng.choice(sorted(files))
        return volume_id, files[volume_id]

    def _rot(self) -> None:
        """One bit, in a page, a block of checksums, a batch that is not at the end of the log, or one superblock."""
        victim = self._victim()
        if victim is None:
            return
        volume_id, files = victim
        kind = self._rng.choice(("extents", "extents", "sums", "wal", "superblock"))
        if kind == "extents":
            self._flip(volume_id, kind, files.extents_fd, 0, self._room.size(files.extents_fd))
        elif kind == "sums":
            self._flip(volume_id, kind, files.sums_fd, 0, self._room.size(files.sums_fd))
        elif kind == "superblock":
            copy = self._rng.randrange(2)
            self._flip(volume_id, kind, files.superblock_fd, copy * PAGE_BYTES, PAGE_BYTES)
        else:
            found = batches(self._room, files)
            if len(found) > TAIL_BATCHES:
                offset, size = self._rng.choice(found[:-TAIL_BATCHES])
                self._flip(volume_id, kind, files.wal_fd, offset, size)

    def _flip(self, volume_id: VolumeId, kind: str, fd: int, offset: int, size: int) -> None:
        at = offset + self._rng.randrange(size)
        (byte,) = self._room.pread(fd, at, 1)
        self._room.pwrite(fd, at, bytes([byte ^ (1 << self._rng.randrange(8))]))
        self._world.note("disk.rotted", node=self._rotten, volume=volume_id, file=kind, at=at)

    def _lose_write(self) -> None:
        """A page that is written from now on was not, although the disk said so."""
        victim = self._victim()
        if victim is None:
            return
        volume_id, files = victim
        page = self._rng.choice(self._pages(volume_id))
        before = self._room.pread(files.extents_fd, page * PAGE_BYTES, PAGE_BYTES)

        def lost() -> None:
            if self.on and self._calm():
                self._room.pwrite(files.extents_fd, page * PAGE_BYTES, before)
                self._world.note("disk.lost_write", node=self._rotten, volume=volume_id, page=page)

        self._later(0.5, 3.0, lost)

    def _misdirect(self) -> None:
        """A write went to another page than it was for."""
        victim = self._victim()
        if victim is None:
            return
        volume_id, files = victim
        source, target = self._rng.sample(self._pages(volume_id), 2)
        content = self._room.pread(files.extents_fd, source * PAGE_BYTES, PAGE_BYTES)
        self._room.pwrite(files.extents_fd, target * PAGE_BYTES, content)
        self._world.note(
            "disk.misdirected", node=self._rotten, volume=volume_id, source=source, target=target
        )

    def _pages(self, volume_id: VolumeId) -> list[int]:
        return sorted(self._cluster.block_clients()[volume_id].pages)

    # ------------------------------------------------------------ clocks

    def _suspend(self) -> None:
        """The boot clock counts a suspension that nobody else noticed."""
        name = self._node()
        by_ns = self._rng.randrange(1_000_000, 5_000_000_000)
        self._world.note("clock.jumped", node=name, ns=by_ns)
        self._room.jump(self._host(name), by_ns)
