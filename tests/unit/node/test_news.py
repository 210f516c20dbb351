"""What a node tells of its replicas: it looks only at those with news, and tells what a look at all would."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest
import structlog

from sparrow.authority.types import Line, ReplicaState, RoleClaim, SlotFact, Term
from sparrow.base.errors import Unavailable
from sparrow.base.ids import Epoch, Lsn, NodeId, ReplicaId, ReplicaUuid, VolumeId
from sparrow.node.facts import SlotReports, slot_fact
from sparrow.node.outside import Identity
from sparrow.node.progress import Progress
from sparrow.node.replicas import Broken
from sparrow.node.volume import Volume
from sparrow.ports.dataplane import LogSummary, VolumeStatus

ME = Identity(
    node_id=NodeId("n1"), incarnation=1, ctrl_addr="c:1", data_addr="d:1", iscsi_addr="i:1"
)
NO_TERM = Term(epoch=Epoch(0), start=0)


def view(name: str, lsn: int = 1) -> VolumeStatus:
    return VolumeStatus(
        volume_id=VolumeId(name),
        term=NO_TERM,
        promised_epoch=Epoch(0),
        gate_open=False,
        log=LogSummary(
            uuid=ReplicaUuid("1" * 32),
            terms=(),
            last_term=NO_TERM,
            last_lsn=Lsn(lsn),
            last_check=0,
            oldest_lsn=Lsn(1),
            durable_lsn=Lsn(lsn),
            commit_lsn=Lsn(lsn),
            applied_lsn=Lsn(lsn),
            must_reach_lsn=Lsn(0),
            state=ReplicaState.CLEAN,
            suspect=False,
        ),
        disk_failed=False,
        pool_full=False,
        frozen=False,
        sessions=0,
        primary_silent_ms=None,
        peers=(),
        reads=0,
        writes=0,
        read_bytes=0,
        written_bytes=0,
    )


@dataclass
class FakeVolume:
    """What a look needs of a volume. It is withdrawn for as many looks as ``slow`` says, and not settled meanwhile."""

    volume_id: VolumeId
    replica_id: ReplicaId = ReplicaId("r1")
    known_line: Line | None = None
    primacy: None = None
    size_bytes: int = 1 << 20
    disk_failed: bool = False
    hung: bool = False
    is_member: bool = True
    slow: int = 0
    progress: Progress = field(default_factory=lambda: Progress(lambda _slot: None))
    seen: list[VolumeStatus] = field(default_factory=list)

    @property
    def withdrawn(self) -> bool:
        return self.slow > 0

    @property
    def settled(self) -> bool:
        return not self.withdrawn

    def observe(self, status: VolumeStatus) -> None:
        self.seen.append(status)
        self.slow = max(0, self.slow - 1)


class FakeNode:
    """Replicas and the core below them."""

    def __init__(self, *names: str) -> None:
        self.volumes = {VolumeId(name): FakeVolume(VolumeId(name)) for name in names}
        self.views = {VolumeId(name): view(name) for name in names}
        self.leaving: set[VolumeId] = set()
        self.broken: dict[VolumeId, Broken] = {}
        self.stirs = 0
        self.stalled = False
        self.reports = SlotReports(cast("Any", self), cast("Any", self), ME, structlog.get_logger())

    def __iter__(self) -> Iterator[FakeVolume]:
        return iter([self.volumes[name] for name in sorted(self.volumes)])

    def find(self, volume_id: VolumeId) -> FakeVolume | None:
        return self.volumes.get(volume_id)

    async def statuses(self) -> dict[VolumeId, VolumeStatus]:
        if self.stalled:
            raise Unavailable("The core stands still.")
        return self.views

    def news(self, name: str, lsn: int) -> None:
        """As the core tells it: another dict, in which what is as it was is the same object."""
        self.views = self.views | {VolumeId(name): view(name, lsn)}

    def whole(self) -> dict[VolumeId, SlotFact]:
        """What a look at all of them tells."""
        return {
            name: slot_fact(cast("Volume", volume), self.views[name], ME)
            for name, volume in self.volumes.items()
            if name in self.views
        }

    def looked_at(self) -> set[str]:
        """Since this was asked last."""
        found: set[str] = {volume.volume_id for volume in self if volume.seen}
        for volume in self:
            volume.seen.clear()
        return found


async def test_only_volumes_with_news_are_looked_at() -> None:
    node = FakeNode("a", "b", "c")
    first = await node.reports.take()
    assert node.looked_at() == {"a", "b", "c"}
    assert await node.reports.take() is first
    assert (node.looked_at(), node.reports.resting) == (set(), True)
    node.news("b", 2)
    told = await node.reports.take()
    assert (node.looked_at(), node.reports.resting) == ({"b"}, False)
    assert (told[0], told[2]) == (first[0], first[2])
    assert told[1].last_lsn == 2
    assert await node.reports.take() is told
    assert (node.looked_at(), node.reports.resting) == (set(), True)


async def test_news_that_change_no_fact_leave_what_is_told_the_same_object() -> None:
    """Then the heartbeat has nothing to compare (``Deltas``)."""
    node = FakeNode("a", "b")
    first = await node.reports.take()
    node.looked_at()
    node.views = node.views | {VolumeId("a"): replace(view("a"), sessions=7)}
    assert await node.reports.take() is first
    assert (node.looked_at(), node.reports.resting) == ({"a"}, False)


async def test_a_volume_that_changes_with_time_is_looked_at_until_it_is_settled() -> None:
    node = FakeNode("a", "b")
    node.volumes[VolumeId("a")].slow = 3
    told = [(await node.reports.take())[0].withdrawn for _ in range(2)]
    assert told == [True, True]
    node.looked_at()
    assert not (await node.reports.take())[0].withdrawn
    assert (node.looked_at(), node.reports.resting) == ({"a"}, False)
    await node.reports.take()
    assert (node.looked_at(), node.reports.resting) == (set(), True)


async def test_what_happens_outside_the_core_has_all_looked_at() -> None:
    node = FakeNode("a", "b")
    await node.reports.take()
    node.looked_at()
    node.volumes[VolumeId("b")].disk_failed = True
    node.stirs += 1
    assert [slot.disk_failed for slot in await node.reports.take()] == [False, True]
    assert node.looked_at() == {"a", "b"}


async def test_after_a_core_that_stood_still_nothing_seen_before_counts() -> None:
    node = FakeNode("a", "b")
    before = await node.reports.take()
    node.looked_at()
    node.stalled = True
    assert all(slot.withdrawn for slot in await node.reports.take())
    assert not node.reports.resting
    node.stalled = False
    assert await node.reports.take() == before
    assert node.looked_at() == {"a", "b"}


async def test_a_replica_that_is_being_deleted_is_told_until_its_files_are_gone() -> None:
    node = FakeNode("a", "b")
    await node.reports.take()
    del node.volumes[VolumeId("a")]
    node.leaving.add(VolumeId("a"))
    node.stirs += 1
    for _ in range(2):
        slots = {slot.volume_id: slot for slot in await node.reports.take()}
        assert not slots[VolumeId("a")].ready_for_primary
        assert slots[VolumeId("a")].role_claim is RoleClaim.NONE
        node.views = {VolumeId("b"): node.views[VolumeId("b")]}
    node.leaving.clear()
    node.stirs += 1
    assert [slot.volume_id for slot in await node.reports.take()] == ["b"]


@pytest.mark.parametrize("seed", range(12))
async def test_what_is_told_is_what_a_look_at_all_would_tell(seed: int) -> None:
    chance = random.Random(seed)
    names = [f"v{number}" for number in range(6)]
    node = FakeNode(*names)
    for lsn in range(2, 120):
        for _ in range(chance.randrange(3)):
            name = VolumeId(chance.choice(names))
            volume = node.volumes.get(name)
            match chance.randrange(7):
                case 0 | 1 | 2:
                    if name in node.views:
                        node.news(name, lsn)
                case 3 if volume is not None:
                    volume.disk_failed = not volume.disk_failed
                    node.stirs += 1
                case 4 if volume is not None:
                    # It becomes so in a look at news of it, as a hanging write does.
                    volume.slow = chance.randrange(1, 4)
                    if name in node.views:
                        node.news(name, lsn)
                case 5 if volume is not None and name in node.views:
                    # The core closes first, or the replica goes first.
                    if chance.random() < 0.5:
                        node.views = {one: is_ for one, is_ in node.views.items() if one != name}
                    del node.volumes[name]
                    node.stirs += 1
                case 6 if volume is None:
                    node.volumes[name] = FakeVolume(name)
                    node.views = node.views | {name: view(name, lsn)}
                    node.stirs += 1
                case _:
                    pass
        told = await node.reports.take()
        assert {slot.volume_id: slot for slot in told} == node.whole()
        assert [slot.volume_id for slot in told] == sorted(node.whole())
