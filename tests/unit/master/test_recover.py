"""What a master with a restored store takes for the truth by itself, and what has to be heard before."""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import replace

import pytest
import structlog

from sparrow.authority import recovery as rules
from sparrow.authority.events import HeartbeatReceived
from sparrow.authority.loop import AuthorityLoop
from sparrow.authority.recovery import HeldReplica, Mark, MarkKind, NodeAnswer
from sparrow.authority.types import Line, ReplicaState, SlotFact
from sparrow.base.ids import Lsn, NodeId, VolumeId
from sparrow.master.driver import Driver
from sparrow.master.heartbeat import observation_of
from sparrow.master.inventory import Inventory
from sparrow.master.recover import HEARD_BY_S, Recovery
from sparrow.rpc.messages import Heartbeat
from sparrow.store.memory import MemoryDisk, MemoryStore
from tests.support.lines import VOLUME, line, rid, uuid_of

TOMBSTONE = line(5, 1, "a", "ab", members="ab", retired=True)
#: The volume was made again after the backup, on other nodes.
LIFE = line(6, 1, "c", "cd", members="cd")


class Clock:
    time = 100.0

    def now(self) -> float:
        return self.time


def held(name: str, volume_id: VolumeId, acted_on: Line | None) -> HeldReplica:
    """What a node has of a volume."""
    if acted_on is not None:
        acted_on = replace(acted_on, volume_id=volume_id)
    return HeldReplica(
        volume_id=volume_id,
        replica_id=rid(name),
        uuid=uuid_of(name),
        state=ReplicaState.CLEAN,
        suspect=False,
        line=acted_on,
        promised_epoch=0 if acted_on is None else acted_on.lineage.epoch,
        last_term=None,
        last_lsn=Lsn(7),
    )


class Restored:
    """A master on a backup in which the volume is deleted. ``holds``: what each node would answer."""

    def __init__(self) -> None:
        disk = MemoryDisk()
        store = self.store = MemoryStore(disk)
        store.put_lines([TOMBSTONE])
        mark = Mark(volume_id=VOLUME, kind=MarkKind.RESTORED, cause="a backup")
        store.mark_unconfirmed([mark])
        self.clock, self.inventory, log = Clock(), Inventory(), structlog.get_logger()
        self.authority = AuthorityLoop(store, master_generation=9, now=self.clock.now())
        self.driver = Driver(self.authority, store, self.clock, log)
        self.driver.start(())
        self.recovery = Recovery(
            self.driver, self.inventory, store, generation=9, log=log, ask=self.ask
        )
        self.holds: dict[str, Line | None] = {"a": None, "b": None, "c": LIFE, "d": LIFE}
        self.cluster_id = store.cluster_id
        self.deaf: set[str] = set()
        #: By node what else it holds, and volumes of which it cannot open the files.
        self.extra: dict[str, tuple[HeldReplica, ...]] = {}
        self.broken: dict[str, tuple[VolumeId, ...]] = {}
        self.beats = 0

    async def ask(self, addresses: Collection[str], _generation: int) -> dict[str, NodeAnswer]:
        asked = [(name, f"n{name}:ctrl") for name in self.holds if name not in self.deaf]
        return {
            address: NodeAnswer(
                node_id=NodeId(f"n{name}"),
                cluster_id=self.cluster_id,
                master_generation=9,
                replicas=(*self.replicas(name), *self.extra.get(name, ())),
                broken=self.broken.get(name, ()),
            )
            for name, address in asked
            if address in addresses
        }

    def replicas(self, name: str) -> tuple[HeldReplica, ...]:
        acted_on = self.holds[name]
        if acted_on is None:
            return ()
        return (held(name, VOLUME, acted_on),)

    def hear(self, name: str, *, news_only: bool = False) -> None:
        """A heartbeat, of a node that has files or none; or one that is to be understood with those before."""
        self.beats += 1
        acted_on = self.holds[name]
        fact = SlotFact(
            volume_id=VOLUME,
            replica_id=rid(name),
            uuid=uuid_of(name),
            state=ReplicaState.CLEAN,
            lineage=None if acted_on is None else acted_on.lineage,
            durable_lsn=Lsn(7),
            commit_lsn=Lsn(7),
            ready_for_primary=True,
            data_addr=f"n{name}:data",
            ctrl_addr=f"n{name}:ctrl",
        )
        heartbeat = Heartbeat(
            node_id=NodeId(f"n{name}"),
            incarnation=1,
            sequence=self.beats,
            data_addr=f"n{name}:data",
            ctrl_addr=f"n{name}:ctrl",
            iscsi_addr=f"n{name}:iscsi",
            pool_total_bytes=1,
            pool_free_bytes=1,
            slots=() if acted_on is None or news_only else (fact,),
            revision=8,
            base_revision=7 if news_only else None,
        )
        self.inventory.note(heartbeat)
        observation = observation_of(heartbeat, received_at=self.clock.now())
        self.driver.feed(HeartbeatReceived(observation=observation))

    async def confirmed(self) -> bool:
        await self.recovery.ask()
        return self.recovery.find(VolumeId(VOLUME)).confirmed


async def test_a_deletion_is_believed_only_when_nodes_that_live_have_had_the_time_to_be_heard() -> (
    None
):
    """a and b have no files, as it should be; c and d have the volume that was made since, and are heard late."""
    master = Restored()
    master.hear("a")
    master.hear("b")
    assert not await master.confirmed()
    assert "just started" in str(master.recovery.find(VOLUME).missing)
    master.hear("c")
    master.hear("d")
    await master.recovery.ask()
    found = master.recovery.find(VOLUME)
    assert found.newest == LIFE
    assert found.confirmed, "a life is proved by its members, without any wait"


async def test_a_deletion_is_believed_when_all_that_were_heard_have_answered() -> None:
    master = Restored()
    master.holds["c"] = master.holds["d"] = None
    for name in "abcd":
        master.hear(name)
    master.deaf = {"c"}
    master.clock.time += HEARD_BY_S
    master.hear("c")
    assert not await master.confirmed()
    assert master.recovery.find(VOLUME).missing == ("no answer from nc (nc:ctrl), which was heard",)
    master.clock.time += 60
    assert await master.confirmed(), "a node that is silent again is away like any other"


@pytest.mark.parametrize("news_only", [False, True])
async def test_a_node_that_has_files_is_waited_for_however_long_it_is_silent(
    news_only: bool,
) -> None:
    """It said so, or it said only that nothing has changed, to a master that does not know from what."""
    master = Restored()
    master.deaf = {"c", "d"}
    for name in "ab":
        master.hear(name)
    master.hear("c", news_only=news_only)
    master.clock.time += 60
    assert not await master.confirmed()
    master.deaf = set()
    await master.recovery.ask()
    assert master.recovery.find(VOLUME).newest == LIFE


async def test_of_many_answers_those_that_matter_to_a_volume_are_looked_at_and_no_others() -> None:
    """What is found of each volume is what all answers together say, also when answers change."""
    master = Restored()
    others = [VolumeId(f"other-{number}") for number in range(4)]
    marks = [Mark(volume_id=one, kind=MarkKind.LOST, cause="as told") for one in others]
    master.store.mark_unconfirmed(marks)
    master.authority.publisher.doubt(marks)
    lives = (
        LIFE,
        line(6, 2, "d", "de", members="cde"),
        line(6, 2, "c", "cd", members="cd"),
        line(7, 1, "e", "e", members="e"),
        TOMBSTONE,
        None,
    )
    chance = random.Random(1)
    seen = set()
    for _ in range(60):
        master.holds = {name: chance.choice(lives) for name in "abcde"}
        master.deaf = set(chance.sample("abcde", chance.randrange(3)))
        master.extra = {
            name: tuple(
                replace(held(name, one, chance.choice(lives)), promised_epoch=chance.randrange(9))
                for one in chance.sample(others, 2)
            )
            for name in "abcde"
        }
        master.broken = {
            name: tuple(chance.sample([VOLUME, *others], chance.randrange(2))) for name in "abcde"
        }
        for name in "abcde":
            master.hear(name)
        master.clock.time += HEARD_BY_S
        await master.recovery.ask()
        for volume_id in (VOLUME, *others):
            found = master.recovery.find(volume_id)
            assert found == rules.find(
                volume_id,
                master.recovery.answers,
                recorded=master.authority.publisher.doubted_line(volume_id),
                awaited=master.recovery.awaited,
                unheard=tuple(master.recovery._unheard(volume_id)),
            )
            seen.add((found.confirmed, len(found.holders), len(found.backing)))
    assert len(seen) > 10, "there was something to be found"
