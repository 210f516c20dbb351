"""Schedules of pages, checksums, superblocks and rebuilds, on the compiled core; see ``test_core_schedules``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sparrow.base.constants import PAGE_BYTES
from sparrow.base.errors import Unavailable
from sparrow.formats.sums import SUMS_BLOCK
from sparrow.formats.superblock import STATE_CLEAN, SUPERBLOCK_BYTES
from sparrow.sim.compiled.client import SPLIT_PAGES
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

#: A page whose halves are written by themselves too.
SPLIT = SPLIT_PAGES[0]


@pytest.fixture
def pair() -> Iterator[CompiledStage]:
    with compiled_stage(2, 1) as built:
        yield built


# ---------------------------------------------------------------- S10: two views


def test_s10_what_is_not_committed_is_not_read(pair: CompiledStage) -> None:
    """a has logged a write that b does not get, and is read from; then a dies and b goes on without it.

    Rule: clients read the newest version that is committed.
    """
    s = pair
    s.client.quiet = True
    value = s.written(s.a, 0)
    s.cut_cores(s.a, s.b)
    s.write(s.a, 0)
    s.run(0.2)
    assert s.last_read(s.a, 0) == value
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b), seconds=30)
    s.open_cores(s.a, s.b)
    assert s.last_read(s.b, 0) == value
    s.ends_well()


@pytest.mark.parametrize("apart_s", [0.0, 0.05])
def test_s10_parts_of_one_page_build_upon_what_is_not_committed(
    pair: CompiledStage, apart_s: float
) -> None:
    """Both halves of a page are written while b hears nothing, then all of it is; nobody reads it, and b takes over.

    Rule: what a write does not cover comes from the newest version logged, committed or not.
    """
    s = pair
    s.client.quiet = True
    old = s.written(s.a, SPLIT)
    s.run(3)
    s.cut_cores(s.a, s.b)
    lower, first = s.write_half(s.a, SPLIT, upper=False)
    s.run(apart_s)
    upper, second = s.write_half(s.a, SPLIT, upper=True)
    s.run(0.05)
    assert not first.done()
    assert not second.done()
    assert s.halves_read(s.a, SPLIT) == (old, old)
    s.open_cores(s.a, s.b)
    s.until(lambda: first.done() and second.done())
    assert s.halves_read(s.a, SPLIT) == (lower, upper)
    s.world.kill_node(s.a)
    s.until(lambda: s.serves(s.b), seconds=30)
    assert s.halves_read(s.b, SPLIT) == (lower, upper)
    s.ends_well()


def test_s10_what_was_applied_while_a_page_was_read_is_built_upon(pair: CompiledStage) -> None:
    """A write of a half of each of two pages knows the first, and a's disk takes seconds to read the second.

    Meanwhile the first is written and applied. Rule: before the flusher lets a version go, whoever counts on the page
    in the extents is given it.
    """
    s = pair
    s.client.quiet = True
    for page in (SPLIT, SPLIT + 1):
        s.written(s.a, page)
    s.run(3)
    across = s.client.write_across(s.plane(s.a), SPLIT)
    value = max(s.client.runs)
    # The read of the first page is under way, and quick.
    s.slow_disk(s.a, 60.0)
    s.run(0.002)
    s.works_again(s.a)
    whole, second = s.write(s.a, SPLIT)
    s.until(second.done)
    s.until(lambda: s.look(s.a).applied >= second.result().a)
    assert across is not None
    assert not across.done()
    s.until(across.done, seconds=60)
    assert across.result().rc == 0
    assert s.halves_read(s.a, SPLIT) == (whole, value)
    s.ends_well()


# ---------------------------------------------------------------- S19: a superblock copy


@pytest.mark.parametrize("copy", [0, 1])
def test_s19_a_lost_superblock_copy_forgets_no_promise(pair: CompiledStage, copy: int) -> None:
    """a has promised b's epoch; one copy of its superblock rots while it is down, and it is back where nobody hears it.

    Rule: a promise is in both copies before it is given, and with one copy lost nothing is granted.
    """
    s = pair
    s.move(s.b)
    s.until(lambda: s.serves(s.b))
    s.until(s.world.all_healthy)
    epoch = s.line.lineage.epoch
    s.world.kill_node(s.a)
    s.rot(s.files(s.a).superblock_fd, copy * SUPERBLOCK_BYTES + 100)
    s.cut("a-b", "a-m")
    s.world.start_node(s.a)
    s.run(3)
    inside = s.look(s.a)
    assert (inside.promised_epoch, inside.suspect) == (epoch, True)
    assert not s.serves(s.a)
    s.open("a-b", "a-m")
    s.ends_well()


# ---------------------------------------------------------------- S20: a rebuild


def test_s20_a_copy_holds_nothing_that_a_failover_takes_back() -> None:
    """c is copied from an a whose newest writes do not reach b; then a dies, and b goes on without them and with c.

    Rule: the base lane reads the committed view, so what was copied is never cut.
    """
    with compiled_stage(3, 1) as s:
        s.client.quiet = True
        s.fill_log(s.a)
        s.world.wipe_node(s.c)
        s.until(lambda: s.in_sync == {s.a, s.b})
        s.cut("a-m")
        s.cut_cores(s.a, s.b)
        for page in range(8):
            s.write(s.a, page)
        s.world.start_node(s.c)
        s.until(lambda: s.heard("peer.rebuilt") > 0)
        s.world.kill_node(s.a)
        s.until(lambda: s.serves(s.b), seconds=30)
        s.open("a-m")
        s.open_cores(s.a, s.b)
        s.ends_well()


# ---------------------------------------------------------------- S21: what an absent member misses


@pytest.mark.parametrize("power_lost", [False, True])
def test_s21_what_a_member_misses_is_known_to_whoever_leads_when_it_returns(
    power_lost: bool,
) -> None:
    """c is away for longer than logs reach back, and the primary of that time dies; b knows what changed since c left.

    With ``power_lost`` b's machine stopped in between: the log had let go by then of what changed first.

    Rule: every in-sync replica keeps the map of what it applies, durable before its log lets go of the entries.
    """
    with compiled_stage(3, 1) as s:
        s.client.quiet = True
        s.world.kill_node(s.c)
        s.until(lambda: s.in_sync == {s.a, s.b})
        first = {page: s.written(s.a, page) for page in sorted(s.client.pages)}
        s.fill_log(s.a)
        s.until(lambda: s.log_went_round(s.b))
        if power_lost:
            s.lose_power(s.b)
            s.world.start_node(s.b)
            s.until(lambda: s.in_sync == {s.a, s.b}, seconds=60)
        s.world.kill_node(s.a)
        s.until(lambda: s.serves(s.b), seconds=30)
        s.world.start_node(s.c)
        s.until(lambda: s.heard(f"{s.c}: rebuild.started") > 0, seconds=60)
        s.until(lambda: s.c in s.in_sync, seconds=60)
        (begun,) = [one for one in s.world.events if f"{s.c}: rebuild.started" in one]
        assert "kind=delta" in begun
        # c alone says what it has.
        s.world.kill_node(s.b)
        s.until(lambda: s.serves(s.c), seconds=30)
        for page, value in first.items():
            assert s.last_read(s.c, page) >= value
        s.ends_well()


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_copy_that_is_whole_leaves_no_cursor_behind(seed: int) -> None:
    """b is copied while its disk is slow: marks are still on their way to it when the copy ends.

    Rule: the end waits for the last of them, for what a later session would make of a cursor is no concern of a whole
    replica, and a mark says nothing that the end does not.
    """
    with compiled_stage(2, 1, seed) as s:
        s.client.quiet = True
        s.fill_log(s.a)
        for page in sorted(s.client.pages):
            # By both hosts: one of them may be kept out by a reservation.
            for _ in range(2):
                s.until(s.write(s.a, page)[1].done)
        s.world.wipe_node(s.b)
        s.until(lambda: s.in_sync == {s.a})
        s.slow_disk(s.b, 0.03)
        s.world.start_node(s.b)
        s.until(lambda: s.heard("peer.rebuilt") > 0, seconds=60)
        s.works_again(s.b)
        s.run(1)
        for copy in (0, 1):
            record = s.superblock(s.b, copy)
            left = [
                record[name] for name in ("base_lsn", "base_cursor", "base_from", "base_patched")
            ]
            assert (record["state"], left) == (STATE_CLEAN, [0, 0, 0, 0])
        s.ends_well()


def test_s20_a_log_that_was_let_go_for_a_copy_does_not_come_back(pair: CompiledStage) -> None:
    """b is to be copied to, hears nothing of the copy, and dies; its log never went round, its first batch is there.

    Rule: what was prepared for a copy that has not begun has no log.
    """
    s = pair
    s.client.quiet = True
    s.world.kill_node(s.b)
    s.until(lambda: s.in_sync == {s.a})
    s.fill_log(s.a)
    s.cut_cores(s.a, s.b)
    s.world.start_node(s.b)
    s.until(lambda: s.heard(f"{s.b}: rebuild.started") > 0)
    s.run(0.2)
    assert s.look(s.b).head == 0
    s.cut_control(s.a, s.b)
    s.world.kill_node(s.b)
    s.world.start_node(s.b)
    s.run(1)
    assert s.look(s.b).head == 0
    assert s.look(s.b).durable == 0
    s.open_cores(s.a, s.b)
    s.open("a-b")
    s.ends_well()


# ---------------------------------------------------------------- flushes


def test_a_flush_that_ends_well_beside_one_that_failed_proves_nothing() -> None:
    """b is copied to; a flush of its extents fails, and b hears of it a second later, after the next ones could end.

    Then power goes. Rule: one flush of a file at a time, for of two beside each other one alone is told of an error.
    """
    with compiled_stage(2, 1) as s:
        s.client.quiet = True
        s.fill_log(s.a)
        s.fill_volume(s.a)
        s.until(lambda: s.look(s.a).applied == s.look(s.a).commit)
        s.world.wipe_node(s.b)
        s.until(lambda: s.in_sync == {s.a})
        s.world.start_node(s.b)
        s.until(lambda: s.heard(f"{s.b}: rebuild.started") > 0, look_s=0.0005)
        room, extents = s.cluster.room, s.files(s.b).extents_fd
        room.fail_flush(extents, 1_000_000_000)
        s.until(lambda: room.flush_failed(extents), look_s=0.0005)
        s.run(0.5)
        s.lose_power(s.b)
        for copy in (0, 1):
            cursor = s.superblock(s.b, copy).number("base_cursor")
            kept, wanted = (
                room.pread(s.files(name).extents_fd, 0, cursor * PAGE_BYTES) for name in (s.b, s.a)
            )
            assert kept == wanted
        s.ends_well()


# ---------------------------------------------------------------- S22: repair by a peer


def test_s22_an_answer_that_comes_late_overwrites_no_newer_page(pair: CompiledStage) -> None:
    """A page of a rots, b's copy of it is under way to a, and meanwhile the page is written and applied anew.

    Rule: a peer's page is taken when it is what the own checksum says at that moment.
    """
    s = pair
    s.client.quiet = True
    s.written(s.a, 3)
    s.run(3)
    calls: Any = s.node(s.a)._around.calls
    ask, let_go = calls.read_page, asyncio.Event()

    async def late(*args: Any, **kwargs: Any) -> Any:
        answer = await ask(*args, **kwargs)
        await let_go.wait()
        return answer

    calls.read_page = late
    s.rot(s.files(s.a).extents_fd, 3 * PAGE_BYTES)
    s.client.read(s.plane(s.a), 3, 1)
    s.until(lambda: s.heard("page.damaged") == 1)
    s.run(0.1)
    value, answer = s.write(s.a, 3)
    s.until(answer.done)
    s.until(lambda: s.look(s.a).applied >= answer.result().a)
    s.world.loop.call_soon(let_go.set)
    s.run(1)
    assert s.last_read(s.a, 3) == value
    assert s.node(s.a).mender.repairs(V).found == 1
    s.ends_well()


def test_s22_a_page_that_changes_while_it_is_read_is_not_damaged(pair: CompiledStage) -> None:
    """The disk takes seconds for one read of a page, and meanwhile the page is written, applied and flushed.

    Rule: a page that differs from its checksum is damaged if neither changed meanwhile; else it is looked up again.
    """
    s = pair
    s.client.quiet = True
    s.written(s.a, 3)
    s.run(3)
    s.slow_disk(s.a, 60.0)
    read = s.client.read(s.plane(s.a), 3, 1)
    s.works_again(s.a)
    value, write = s.write(s.a, 3)
    s.until(write.done)
    s.until(lambda: s.look(s.a).applied >= write.result().a)
    assert read is not None
    assert not read.done()
    s.until(read.done, seconds=60)
    assert read.result().rc == 0
    assert s.client.pages[3].last_read == value
    assert s.heard("page.damaged") == 0
    s.ends_well()


def test_s22_a_page_that_was_lost_with_its_checksum_is_not_taken_from_an_older_view(
    pair: CompiledStage,
) -> None:
    """a's checksums rot while b cannot be asked for them; the first answer for a page is as of before its last write.

    Rule: without a checksum a peer's page is taken as of an LSN that is not older than what the extents may hold.
    """
    s = pair
    s.client.quiet = True
    s.written(s.a, 3)
    s.run(3)
    old = s.asked_for_page(s.a, s.b, 3)
    value = s.written(s.a, 3)
    s.run(3)
    s.world.kill_node(s.a)
    s.rot(s.files(s.a).sums_fd, 100)
    s.world.start_node(s.a)
    calls: Any = s.node(s.a)._around.calls
    ask, early = calls.read_page, [old]

    async def unreached(*_args: Any, **_kwargs: Any) -> Any:
        raise Unavailable("not now")

    async def first_the_old_one(*args: Any, **kwargs: Any) -> Any:
        return early.pop() if early else await ask(*args, **kwargs)

    calls.read_sums, calls.read_page = unreached, first_the_old_one
    s.until(lambda: s.serves(s.a), seconds=30)
    s.client.read(s.plane(s.a), 3, 1)
    s.until(lambda: s.heard("sums.lost") == 1)
    assert s.last_read(s.a, 3) == value
    assert not early
    del calls.read_sums, calls.read_page
    s.ends_well()


# ---------------------------------------------------------------- S23: checksums


def test_s23_checksums_that_rot_turn_no_data_into_zeros(pair: CompiledStage) -> None:
    """The states of the first pages rot into holes while a is down; then a is read.

    Rule: a block of checksums is believed when its own checksum is right, else it is rebuilt from a peer.
    """
    s = pair
    s.client.quiet = True
    value = s.written(s.a, 0)
    s.run(3)
    s.world.kill_node(s.a)
    s.cluster.room.pwrite(s.files(s.a).sums_fd, SUMS_BLOCK.offset_of("states"), bytes(1))
    s.world.start_node(s.a)
    s.until(s.world.all_healthy)
    s.move(s.a)
    s.until(lambda: s.serves(s.a))
    assert s.last_read(s.a, 0) == value
    s.ends_well()


def test_s23_no_loss_of_power_leaves_a_page_without_its_checksum(pair: CompiledStage) -> None:
    """Power goes for both after their checkpoints, again and again, and takes along what was not flushed.

    Rule: the checksums of a round are durable before the superblock says that it is applied.
    """
    s = pair
    for _ in range(4):
        before = s.acked
        s.until(lambda before=before: s.acked > before + 5)
        s.run(1.5)
        s.lose_power(s.a, s.b)
        s.world.start_node(s.a)
        s.world.start_node(s.b)
        s.until(lambda: s.serves(s.a) or s.serves(s.b), seconds=30)
    s.ends_well()
