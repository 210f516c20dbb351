"""When a replica is scrubbed, in which order, and what is kept over a restart."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

from sparrow.authority.effects import RemoveReplica
from sparrow.dataplane.model.state import ModelFiles
from sparrow.node.mending import Mender
from sparrow.node.scrub import Scrubs
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import BatchDamaged, CoreEvent, PageDamaged, SumsDamaged
from sparrow.rpc.messages import ScrubStatus
from tests.support.lines import VOLUME, moved, rid
from tests.support.model_cluster import Cluster, ModelNode, play

WEEK_S = 7 * 86400.0
START = 1_700_000_000.0


class Bench:
    """The scrubs of one node of a model cluster, with its damage going to a mender."""

    def __init__(self, node: ModelNode, place: Path, *, every_s: float = 0.0) -> None:
        self.node = node
        self.now = START
        self.mender = Mender(node.around, find=node.replicas.find, spawn=node._spawn)
        self.scrubs = Scrubs(
            node.around,
            self.mender,
            volumes=lambda: tuple(node.replicas),
            files=lambda name: place / name,
            every_s=every_s,
            bytes_per_s=1 << 30,
            wall=lambda: self.now,
        )
        usual = node.dataplane._on_event

        def hear(event: CoreEvent) -> None:
            if isinstance(event, PageDamaged | SumsDamaged | BatchDamaged):
                self.mender.take(event)
            else:
                usual(event)

        node.dataplane._on_event = hear

    @property
    def volume(self) -> Volume:
        return self.node.replicas.get(VOLUME)

    @property
    def status(self) -> ScrubStatus:
        return self.scrubs.status(self.volume)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        task = asyncio.ensure_future(self.scrubs.run())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


def files(cluster: Cluster, node: str) -> ModelFiles:
    return cluster.pools[node].files[VOLUME]


def test_one_scrub_repairs_every_kind_of_damage(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        for page in range(6):
            await cluster.write("a", page, bytes([page]) * 4096)
        bench = Bench(cluster.node("a"), tmp_path)
        held = files(cluster, "na")
        held.damaged.update({1, 200})
        held.damaged_sums.add(0)
        held.damaged_lsns.update({2, 5})
        held.superblock_damaged = True
        async with bench.running():
            bench.scrubs.begin(bench.volume)
            await cluster.until(lambda: bench.status.finished_at > 0)
        left = held.damaged | held.damaged_sums | held.damaged_lsns | held.lost
        assert left == set()
        assert not held.superblock_damaged
        status = bench.status
        assert not status.running
        assert (status.damaged, status.repaired, status.unrepairable) == (6, 6, 0)
        assert status.pages_done == status.pages_total
        assert status.batches >= 7

    play(story)


def test_a_batch_that_nobody_has_is_let_go_and_nothing_is_lost_by_that(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        for page in range(6):
            await cluster.write("a", page, bytes([page]) * 4096)
        bench = Bench(cluster.node("a"), tmp_path)
        for node in ("na", "nb", "nc"):
            files(cluster, node).damaged_lsns.add(4)
        async with bench.running():
            bench.scrubs.begin(bench.volume)
            await cluster.until(lambda: bench.status.finished_at > 0)
        assert (bench.status.damaged, bench.status.unrepairable) == (1, 0)
        assert files(cluster, "na").log.base_lsn == 4
        assert bench.node.dataplane.read(VOLUME, 2) == bytes([2]) * 4096

    play(story)


def test_what_nobody_has_is_counted_as_unrepairable_and_the_rest_is_repaired(
    tmp_path: Path,
) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, bytes(4096))
        bench = Bench(cluster.node("a"), tmp_path)
        for node in ("na", "nb", "nc"):
            files(cluster, node).damaged.add(7)
        files(cluster, "na").damaged.add(9)
        async with bench.running():
            bench.scrubs.begin(bench.volume)
            await cluster.until(lambda: bench.status.finished_at > 0, within=120.0)
        assert files(cluster, "na").damaged == {7}
        assert (bench.status.repaired, bench.status.unrepairable) == (1, 1)

    play(story)


def test_a_replica_is_scrubbed_by_itself_when_the_last_time_is_long_ago(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        bench = Bench(cluster.node("a"), tmp_path, every_s=WEEK_S)
        async with bench.running():
            await cluster.idle(200.0)
            assert bench.status.finished_at == 0, "a new one has its first after that time"
            bench.now += WEEK_S
            await cluster.until(lambda: bench.status.finished_at > 0, within=100.0)
            first = bench.status.finished_at
            bench.now += WEEK_S / 2
            await cluster.idle(200.0)
            assert bench.status.finished_at == first
            bench.now += WEEK_S / 2
            await cluster.until(lambda: bench.status.finished_at > first, within=100.0)

    play(story)


def test_a_scrub_goes_on_after_a_restart_where_it_was(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        bench = Bench(cluster.node("a"), tmp_path)
        bench.scrubs.begin(bench.volume)
        kept = tmp_path / bench.volume.uuid
        progress = json.loads(kept.read_text())
        assert progress["running"]
        kept.write_text(json.dumps(progress | {"block": 1, "damaged": 3, "repaired": 3}))
        again = Bench(cluster.node("a"), tmp_path)
        assert again.status.running
        files(cluster, "na").damaged.add(7)
        async with again.running():
            await cluster.until(lambda: again.status.finished_at > 0)
        assert again.status.damaged == 3, "what was found before the restart still counts"
        assert files(cluster, "na").damaged == {7}, "that block was done already"

    play(story)


def test_a_cursor_that_makes_no_sense_begins_anew(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        volume = cluster.node("a").replicas.get(VOLUME)
        for content in ("", "{", "[]", '{"block": 3, "unknown": 1}', "\0\0"):
            (tmp_path / volume.uuid).write_text(content)
            bench = Bench(cluster.node("a"), tmp_path)
            assert not bench.status.running
            assert bench.status.finished_at == 0

    play(story)


def test_a_pool_without_room_for_a_cursor_is_scrubbed_all_the_same(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        taken = tmp_path / "file"
        taken.write_text("no folder can be made here")
        bench = Bench(cluster.node("a"), taken)
        async with bench.running():
            bench.scrubs.begin(bench.volume)
            await cluster.until(lambda: bench.status.finished_at > 0)

    play(story)


def test_replicas_that_differ_although_each_is_whole_are_reported(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        await cluster.write("a", 7, b"seven" * 100)
        await cluster.write("a", 8, b"eight" * 100)
        await cluster.idle(1.0)
        log = files(cluster, "nb").log
        log.recycle(log.last_lsn)
        files(cluster, "na").log.recycle(files(cluster, "na").log.last_lsn)
        files(cluster, "nc").log.recycle(files(cluster, "nc").log.last_lsn)
        log.pages[8] = b"other" * 100
        bench = Bench(cluster.node("a"), tmp_path)
        async with bench.running():
            bench.scrubs.begin(bench.volume)
            await cluster.until(lambda: bench.status.finished_at > 0, within=120.0)
        assert bench.status.different == 1
        assert bench.status.damaged == 0
        other = Bench(cluster.node("b"), tmp_path)
        async with other.running():
            other.scrubs.begin(other.volume)
            await cluster.until(lambda: other.status.finished_at > 0, within=120.0)
        assert other.status.different == 0, "the primary compares"

    play(story)


def test_a_scrub_rests_while_clients_are_at_work_and_keeps_its_rate(tmp_path: Path) -> None:
    async def story(cluster: Cluster) -> None:
        bench = Bench(cluster.node("a"), tmp_path)
        clock = asyncio.get_running_loop().time
        began = clock()
        await bench.scrubs.pace(1 << 20, 0.0, busy=False)
        alone = clock() - began
        assert 0 < alone < 0.01
        began = clock()
        await bench.scrubs.pace(1 << 20, 0.1, busy=True)
        assert clock() - began > 0.29
        began = clock()
        await bench.scrubs.pace(1 << 30, 0.25, busy=False)
        assert 0.7 < clock() - began < 0.8

    play(story)


def test_what_is_kept_of_a_scrub_goes_with_its_replica(tmp_path: Path) -> None:
    def kept() -> list[str]:
        return [path.name for path in tmp_path.iterdir()]

    async def story(cluster: Cluster) -> None:
        bench = Bench(cluster.node("c"), tmp_path)
        bench.node.replicas.on_removed = bench.scrubs.forget
        bench.scrubs.begin(bench.volume)
        assert kept() == [bench.volume.uuid]
        line = moved(cluster.line, "a", in_sync=("a", "b"))
        line = replace(line, members=tuple(m for m in line.members if m.replica_id != "c"))
        cluster.master.mint(line)
        await cluster.until(lambda: bench.volume.line == line)
        await bench.node.replicas.remove(
            RemoveReplica(volume_id=VOLUME, replica_id=rid("c"), tombstone=line)
        )
        assert kept() == []

    play(story)
