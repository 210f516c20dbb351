"""More than one master: on one store, from a backup, from nodes; each history again with its rule taken away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sparrow.authority import recovery
from sparrow.authority.floor import floor_of
from sparrow.authority.loop import AuthorityLoop
from sparrow.authority.types import AssignmentFact, Line
from sparrow.base.errors import StaleEpoch
from sparrow.base.ids import NodeId
from sparrow.master.recover import Recovery
from sparrow.master.volume_service import VolumeService
from sparrow.node import term
from sparrow.node.master_link import MasterLink
from sparrow.node.volume import Volume
from sparrow.rpc.messages import RecoverRequest, RecoveryVerb, ReplicaLinesRequest
from sparrow.sim import zombie
from sparrow.sim.zombie import copied, restored
from sparrow.store import memory
from sparrow.store.memory import MemoryStore
from tests.support.stage import Stage, V, ends_badly, stage


def s18e_a_master_on_the_same_store(s: Stage) -> None:
    """The old one does not know that it was replaced, every node still calls it, and it would fail over to c."""
    s.world.misled = set(s.world.names)
    s.world.replace_master()
    s.world.kill_node(s.a)
    s.run(3)
    assert s.heard("The store is at master generation 2") > 0
    s.world.misled.clear()
    s.until(lambda: s.serves(s.b) or s.serves(s.c))
    s.world.start_node(s.a)
    s.until(s.world.all_healthy, seconds=30)


def s18e_two_masters_with_one_right_to_speak(s: Stage) -> None:
    """A clone of the old master's machine runs beside it, which no rule of the store can see; each hears one node.

    Both make a primary of one epoch. Whoever is told of the other by its peer stops, and asks nobody out.
    """
    s.cut("n-b", "m-c")
    s.run(5)
    s.world.misled = {s.b}
    s.world.replace_master(copied(s.world.disk))
    # What is minted twice is no news here; that one at most serves is what counts.
    s.world.checkers.durable = lambda *_args: None  # type: ignore[method-assign]
    s.world.checkers.told = lambda *_args, **_facts: None  # type: ignore[method-assign]
    s.world.checkers._check_files = lambda: None  # type: ignore[method-assign]
    old = s.world.zombies[0].process
    old.stop()
    s.run(8)
    s.cut("b-c")
    s.world.kill_node(s.a)
    s.until(lambda: s.heard(f"{s.c}: term.begun", epoch=2) > 0, look_s=0.001)
    old.go_on()
    s.until(lambda: s.heard(f"{s.b}: term.begun", epoch=2) > 0, look_s=0.001)
    s.open("b-c")
    s.run(20)
    assert s.heard("epoch.conflicted") > 0
    assert not s.serves(s.b)
    assert not s.serves(s.c)


def s18_a_copy_beside_the_living_master_decides_nothing(s: Stage) -> None:
    """a hears the master, b a copy of it that was put in place by the verb; a and b do not hear each other.

    Either could go on without the other. The copy waits for the word of a, and a master of the old generation is all
    that a hears: so a goes on alone.
    """
    s.cut("a-b", "m-b", "n-a")
    s.world.misled = {s.a}
    s.world.replace_master(zombie.restored(copied(s.world.disk), s.world.disk.generation))
    s.run(20)
    assert s.serves(s.a)
    assert not s.serves(s.b)
    assert "restored" in s.cause
    s.open("a-b", "m-b", "n-a")
    s.world.misled.clear()
    s.until(s.world.all_healthy, seconds=60)
    assert s.line.lineage.epoch > 1024


def s18c_a_restored_backup_makes_nobody_primary(s: Stage) -> None:
    """The backup says {a,b}; a has written alone since and is down. b alone proves nothing."""
    backup = copied(s.world.disk)
    s.to_one()
    s.world.kill_node(s.a)
    s.world.kill_master()
    s.world.replace_master(zombie.restored(backup, s.world.disk.generation))
    s.world.start_node(s.b)
    s.run(20)
    assert not s.serves(s.b)
    assert "restored" in s.cause
    s.world.start_node(s.a)
    s.until(s.world.all_healthy, seconds=60)
    assert s.line.lineage.epoch > 1024


def s18_whoever_answered_the_new_master_is_deaf_to_the_old_one(s: Stage) -> None:
    """a told the restored master that {a,b} is its line. Then a asks the old one to shrink, and gets it."""
    s.cut("m-b", "n-b")
    s.run(5)
    s.world.replace_master(restored(copied(s.world.disk), s.world.disk.generation))
    s.until(lambda: s.heard("node.answered", node=s.a) > 0)
    s.world.misled = {s.a}
    s.cut("a-b", "n-a")
    s.run(4)
    s.open("n-b")
    s.until(lambda: s.line.lineage.epoch > 1024)
    s.world.checkers.touched()
    s.run(1)
    s.open("a-b", "n-a", "m-b")
    s.world.misled.clear()
    s.until(s.world.all_healthy, seconds=60)


def s18_what_is_being_acted_on_is_told(s: Stage) -> None:
    """b is told of a line and writes it down slowly; a restored master asks meanwhile what b has acted on."""
    node = s.node(s.b)
    write, told = node.dataplane.set_line, []

    async def slowly(*args: Any) -> None:
        await asyncio.sleep(1)
        await write(*args)

    async def ask() -> None:
        told.append(await node.service.replica_lines(ReplicaLinesRequest(master_generation=9)))

    node.dataplane.set_line = slowly  # type: ignore[method-assign]
    s.move(s.b)
    s.until(lambda: s.heard(f"{s.b}: line.accepted", epoch=2) > 0, look_s=0.001)
    node.process.spawn(ask(), "ask")
    s.until(lambda: bool(told))
    (replica,) = told[0].replicas
    assert replica.line is not None
    assert replica.line.lineage.epoch == 2


def s18d_what_a_lost_store_knew_of_moves_is_tidied_up(s: Stage) -> None:
    """The store is lost when the spare node has just made the files that were to replace those of b."""
    spare = s.spare[0]
    s.operator("draining", s.b)
    s.until(lambda: spare in s.holders, look_s=0.0005)
    s.world.kill_master()
    s.lose_store()
    s.until(s.world.all_healthy, seconds=60)
    assert s.line.lineage.epoch > 1024
    s.until(lambda: not s.strays(), seconds=30)


def s18d_a_move_half_done_ends_with_as_many_copies_as_wanted(s: Stage) -> None:
    """The same, when the successor is a member already: of three members two are kept."""
    spare = s.spare[0]
    s.operator("draining", s.b)
    s.until(lambda: any(one.node_id == spare for one in s.line.members), look_s=0.0005)
    s.world.kill_master()
    s.lose_store()
    s.until(lambda: len(s.line.members) == 2 and len(s.holders) == 2, seconds=60)
    s.until(s.world.all_healthy, seconds=60)


def d8_a_name_that_only_a_lost_store_knew_begins_above_everything_it_had(s: Stage) -> None:
    """The volume is moved, deleted and gone from every node when the store is lost with its tombstone."""
    s.move(s.b)
    s.until(s.world.all_healthy, seconds=30)
    s.delete()
    s.until(lambda: V not in s.world.disk.volumes and s.holders == [], seconds=30)
    s.world.kill_master()
    s.lose_store()
    assert V not in s.world.disk.lines
    s.create()
    s.until(lambda: V in s.world.disk.lines and s.world.all_healthy(), seconds=30)
    assert s.line.lineage.epoch == floor_of(s.line.master_generation - 1) + 1


def d8_a_volume_never_bound_in_the_backup_begins_above_what_it_had_since(s: Stage) -> None:
    """The backup was taken when the volume was wanted and had no line; its files are gone when it is restored."""
    backup = copied(s.world.disk)
    backup.lines.clear()
    s.delete()
    s.until(lambda: V not in s.world.disk.volumes and s.holders == [], seconds=30)
    s.world.replace_master(zombie.restored(backup, s.world.disk.generation))
    s.until(lambda: V in s.world.disk.lines and s.world.all_healthy(), seconds=30)
    assert s.line.lineage.epoch > s.world.disk.epoch_floor > 0


def s18d_a_volume_made_after_the_backup_is_taken_over_when_its_members_are_there(s: Stage) -> None:
    """Nothing is unconfirmed when the restored master starts; b comes back much later, and then V goes on."""
    backup = copied(s.world.disk)
    backup.lines.clear()
    backup.volumes.clear()
    s.world.kill_node(s.b)
    s.world.replace_master(zombie.restored(backup, s.world.disk.generation))
    assert not s.world.disk.marks
    s.run(20)
    assert V not in s.world.disk.lines
    s.world.start_node(s.b)
    s.until(lambda: V in s.world.disk.volumes and s.world.all_healthy(), seconds=60)
    assert s.line.lineage.epoch > 1024


def d8_a_create_right_after_a_restore_waits_for_the_nodes_that_live(s: Stage) -> None:
    """V was made after the backup; somebody makes it once more before its only node is heard, a second late."""
    backup = copied(s.world.disk)
    backup.lines.clear()
    backup.volumes.clear()
    s.cut("a-n")
    s.world.replace_master(zombie.restored(backup, s.world.disk.generation))
    s.create()
    s.run(1)
    s.open("a-n")
    s.until(lambda: V in s.world.disk.lines and s.world.all_healthy(), seconds=30)
    assert s.line.lineage.epoch < s.world.disk.epoch_floor
    assert s.holders == [s.a]


def d8_a_name_that_is_made_anew_while_its_node_is_away_is_another_volume(s: Stage) -> None:
    """The same, and the node is off; it comes back to a volume of its name that has another history, and gives way."""
    backup = copied(s.world.disk)
    backup.lines.clear()
    backup.volumes.clear()
    s.world.kill_node(s.a)
    s.world.replace_master(zombie.restored(backup, s.world.disk.generation))
    s.create()
    s.until(lambda: V in s.world.disk.lines and s.world.all_healthy(), seconds=30)
    assert s.line.lineage.epoch > s.world.disk.epoch_floor
    assert s.heard("volume.begun_anew", volume=V) == 1
    s.world.start_node(s.a)
    s.until(lambda: len(s.holders) == 1 and s.a not in s.holders, seconds=30)
    assert s.world.all_healthy()


def restored_with_the_deletion(s: Stage) -> None:
    """V was deleted, a backup was taken, and V was made again on another node, which is ``a`` from now on."""
    s.delete()
    s.until(lambda: V not in s.world.disk.volumes and s.holders == [], seconds=30)
    backup = copied(s.world.disk)
    s.operator("cordoned", s.a)
    s.create()
    s.until(lambda: s.holders not in ([], [s.a]) and s.world.all_healthy(), seconds=30)
    (again,) = s.holders
    s.a = NodeId(again)
    s.cut("a-n")
    s.world.replace_master(zombie.restored(backup, s.world.disk.generation))


def d8_a_deletion_in_a_backup_ends_no_life_of_a_node_that_is_heard_late(s: Stage) -> None:
    """The node of the tombstone has no files, which is right; that of the life after it is heard a second later."""
    restored_with_the_deletion(s)
    s.run(1)
    assert V in s.world.disk.marks
    s.open("a-n")
    s.until(lambda: V not in s.world.disk.marks and s.world.all_healthy(), seconds=30)
    assert not s.line.retired
    assert s.holders == [s.a]
    before = s.acked
    s.until(lambda: s.acked > before)


def d8_a_node_that_said_it_has_files_is_asked_before_a_deletion_is_believed(s: Stage) -> None:
    """The same, and the node is heard, and cannot be asked: its word is waited for, however long that takes."""
    restored_with_the_deletion(s)
    s.open("a>n")
    s.run(10)
    assert V in s.world.disk.marks
    s.open("n>a")
    s.until(lambda: V not in s.world.disk.marks and s.world.all_healthy(), seconds=30)
    assert s.holders == [s.a]


def s18d_files_that_never_served_go_when_somebody_says_so(s: Stage) -> None:
    """V is wanted and not bound, for b stands still, when a backup is restored that does not know it."""
    s.delete()
    s.until(lambda: V not in s.world.disk.volumes and s.holders == [], seconds=30)
    backup = copied(s.world.disk)
    backup.lines.clear()
    s.node(s.b).process.stop()
    s.create()
    s.until(lambda: s.holders == [s.a], seconds=30)
    s.world.kill_node(s.b)
    s.world.replace_master(zombie.restored(backup, s.world.disk.generation))
    s.world.start_node(s.b)
    s.run(10)
    assert V not in s.world.disk.marks
    master = s.world.master
    assert master is not None
    assert V in master.authority.unheard_of()
    s.call(
        lambda here, call: here.authorities.recover(
            RecoverRequest(
                verb=RecoveryVerb.RESET, volume_id=V, who="somebody", force=True, confirm=V
            ),
            call,
        )
    )
    s.until(lambda: s.holders == [] and s.world.disk.lines != {}, seconds=30)


# ---------------------------------------------------------------- the rules, taken away


def without_ears_for_what_nobody_knows(patch: pytest.MonkeyPatch) -> None:
    """S18 (d): what nodes report and the store does not know is evidence for nothing."""
    patch.setattr(AuthorityLoop, "unheard_of", lambda _self: {})


def without_waiting_for_nodes(patch: pytest.MonkeyPatch) -> None:
    """D8: a name is free when nobody who was heard by now holds it."""
    patch.setattr(VolumeService, "_may_be_lost", lambda _self, _volume_id: False)


def with_silence_for_an_answer(patch: pytest.MonkeyPatch) -> None:
    """D8: a deletion is true when its members have nothing, whoever else lives."""
    patch.setattr(Recovery, "_unheard", lambda _self, _volume_id: ())


def without_a_floor_of_epochs(patch: pytest.MonkeyPatch) -> None:
    """D8: a store that was rebuilt or restored counts from the first epoch again."""
    for module in (memory, zombie):
        patch.setattr(module, "floor_of", lambda _generation: 0)


def with_any_generation_in_the_store(patch: pytest.MonkeyPatch) -> None:
    """S18 (e): the store takes changes of whoever has it open."""
    before = MemoryStore._before_change

    def take(self: MemoryStore) -> None:
        held, self._generation = self._generation, None
        before(self)
        self._generation = held

    patch.setattr(MemoryStore, "_before_change", take)


def with_a_conflict_taken_for_silence(patch: pytest.MonkeyPatch) -> None:
    """S18 (e): a peer that promised the epoch to another is asked out like one that does not answer."""
    patch.setattr(term, "OVER", (StaleEpoch,))


def without_marks(patch: pytest.MonkeyPatch) -> None:
    """S18 (c): a backup is started as it is."""
    made = zombie.restored

    def plain(*args: Any) -> Any:
        disk = made(*args)
        disk.marks.clear()
        return disk

    patch.setattr(zombie, "restored", plain)


def with_ears_for_every_master(patch: pytest.MonkeyPatch) -> None:
    """S18: generations are not compared."""

    async def take(self: Volume, line: Any) -> None:
        await self.accept(AssignmentFact(line=line, peers=(), peer_revision=self._peer_revision))

    patch.setattr(Volume, "line_from_ask", take)
    patch.setattr(MasterLink, "hear_generation", lambda _self, generation: generation)


def with_what_was_acted_on_before(patch: pytest.MonkeyPatch) -> None:
    """S18: what is on its way into the superblock is not told."""

    async def at_once(self: Volume) -> Line | None:
        return self.known_line

    patch.setattr(Volume, "settled_line", at_once)


def without_looking_for_strays(patch: pytest.MonkeyPatch) -> None:
    """S18 (d): what a rebuilt store does not account for stays where it is."""
    patch.setattr("sparrow.master.reconciler.with_strays", lambda _snapshot: None)


def with_every_member_placed(patch: pytest.MonkeyPatch) -> None:
    """S18 (d): what is a member is wanted, however many that are."""
    made = recovery.desired_of

    def all_of_them(line: Line, held: Any) -> Any:
        many = replace(line, replication_factor=len(line.members) or 1)
        return made(many, held)

    patch.setattr(recovery, "desired_of", all_of_them)


Rule = Callable[[pytest.MonkeyPatch], None]
SCHEDULES: dict[Callable[[Stage], None], tuple[dict[str, int], Rule]] = {
    s18e_a_master_on_the_same_store: ({"rf": 3}, with_any_generation_in_the_store),
    s18e_two_masters_with_one_right_to_speak: ({"rf": 3}, with_a_conflict_taken_for_silence),
    s18_a_copy_beside_the_living_master_decides_nothing: ({"rf": 2}, without_marks),
    s18c_a_restored_backup_makes_nobody_primary: ({"rf": 2}, without_marks),
    s18_whoever_answered_the_new_master_is_deaf_to_the_old_one: (
        {"rf": 2},
        with_ears_for_every_master,
    ),
    s18_what_is_being_acted_on_is_told: ({"rf": 2}, with_what_was_acted_on_before),
    s18d_what_a_lost_store_knew_of_moves_is_tidied_up: (
        {"rf": 2, "nodes": 3},
        without_looking_for_strays,
    ),
    s18d_a_move_half_done_ends_with_as_many_copies_as_wanted: (
        {"rf": 2, "nodes": 3},
        with_every_member_placed,
    ),
    s18d_a_volume_made_after_the_backup_is_taken_over_when_its_members_are_there: (
        {"rf": 2},
        without_ears_for_what_nobody_knows,
    ),
    s18d_files_that_never_served_go_when_somebody_says_so: (
        {"rf": 2},
        without_ears_for_what_nobody_knows,
    ),
    d8_a_name_that_only_a_lost_store_knew_begins_above_everything_it_had: (
        {"rf": 2},
        without_a_floor_of_epochs,
    ),
    d8_a_volume_never_bound_in_the_backup_begins_above_what_it_had_since: (
        {"rf": 2},
        without_a_floor_of_epochs,
    ),
    d8_a_create_right_after_a_restore_waits_for_the_nodes_that_live: (
        {"rf": 1, "nodes": 3},
        without_waiting_for_nodes,
    ),
    d8_a_name_that_is_made_anew_while_its_node_is_away_is_another_volume: (
        {"rf": 1, "nodes": 3},
        without_a_floor_of_epochs,
    ),
    d8_a_deletion_in_a_backup_ends_no_life_of_a_node_that_is_heard_late: (
        {"rf": 1, "nodes": 3},
        with_silence_for_an_answer,
    ),
    d8_a_node_that_said_it_has_files_is_asked_before_a_deletion_is_believed: (
        {"rf": 1, "nodes": 3},
        with_silence_for_an_answer,
    ),
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_well(schedule: Callable[[Stage], None]) -> None:
    shape, _ = SCHEDULES[schedule]
    with stage(**shape) as s:
        schedule(s)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_badly_without_its_rule(
    schedule: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, take_away = SCHEDULES[schedule]
    with stage(**shape) as s:
        take_away(monkeypatch)
        with ends_badly():
            schedule(s)
