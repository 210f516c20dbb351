"""S25 on compiled cores: what a replica that was being copied to keeps when a volume goes on from a stale one."""

from __future__ import annotations

from collections.abc import Iterable

from sparrow.base.constants import PAGE_BYTES
from sparrow.formats.superblock import STATE_REBUILDING
from sparrow.sim.compiled.content import page_of, value_of
from sparrow.sim.compiled.fencing import RECORDS
from tests.sim.test_stale import discard, recover
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V

#: A page that clients leave alone, among those that a copy comes to last.
LATE = 200
#: Pages between two durable marks.
MARK_PAGES = 64


def write_on_a(s: CompiledStage, pages: Iterable[int], value: int) -> int:
    """Writes that no checker is told of; the last LSN. One of two hosts may be kept out by a reservation."""
    answers = [
        s.plane(s.a).submit(V, "write", page, 1, page_of(page, value), nexus=one)
        for page in pages
        for one in RECORDS
    ]
    s.until(lambda: all(one is not None and one.done() for one in answers), look_s=0.0005)
    return max(one.result().a for one in answers if one is not None and one.result().rc == 0)


def tail(s: CompiledStage) -> int:
    """The last LSN that a's log let go."""
    plane = s.plane(s.a)
    return plane.direct.tail_lsn(plane._volumes[V].index)


def alone(s: CompiledStage) -> int:
    """b has all that a has, to the last entry, and goes; that LSN."""
    s.run(3)
    end = s.look(s.a).head
    assert s.look(s.b).applied == s.look(s.a).applied == end
    s.world.kill_node(s.b)
    s.until(lambda: s.in_sync == {s.a})
    assert s.look(s.a).commit == end
    return end


def copy_begins(s: CompiledStage) -> None:
    """c is back, on a slow disk, and its log begins."""
    s.world.start_node(s.c)
    s.slow_disk(s.c, 0.02)
    s.until(lambda: s.heard(f"{s.c}: rebuild.started") > 0, look_s=0.0005)
    s.until(lambda: s.look(s.c).head > 0, look_s=0.0005)


def late_page(s: CompiledStage) -> int | None:
    """What c's extents hold there."""
    fd = s.files(s.c).extents_fd
    return value_of(LATE, s.cluster.room.pread(fd, LATE * PAGE_BYTES, PAGE_BYTES))


def goes_on_from_b(s: CompiledStage, end: int, *, power: bool) -> None:
    """a and c stop; b, whose last entry is `end`, becomes primary by an operator's word, the others are discarded."""
    s.world.kill_node(s.a)
    s.world.kill_node(s.c, silently=power, strike="lose" if power else "cut")
    # Nothing of c tells of the entry but the page itself.
    left = s.superblock(s.c, 0)
    assert (left.number("state"), left.number("applied_lsn")) == (STATE_REBUILDING, end)
    assert late_page(s) == 7
    s.works_again(s.c)
    s.world.start_node(s.b)
    s.run(15)
    assert s.look(s.b).head == end
    recover(s, s.b)
    s.until(lambda: s.serves(s.b), seconds=30)
    for name in (s.c, s.a):
        s.world.start_node(name)
        s.run(3)
        discard(s, name)
    s.ends_well()


def test_a_copied_page_that_holds_what_was_given_up_is_not_kept() -> None:
    """c is copied to, and a page that it gets is newer than all that b has.

    Rule: a mark says up to where pages may reach, and what is not in the primary's history keeps nothing.
    """
    with compiled_stage(3, 1) as s:
        s.client.quiet = True
        s.fill_log(s.a)
        s.fill_volume(s.a)
        s.world.wipe_node(s.c)
        s.until(lambda: s.in_sync == {s.a, s.b})
        end = alone(s)
        copy_begins(s)
        assert write_on_a(s, [LATE], 7) > end
        s.until(lambda: s.superblock(s.c, 0).number("base_cursor") > LATE, look_s=0.0005)
        goes_on_from_b(s, end, power=True)


def test_a_page_of_a_second_pass_that_holds_what_was_given_up_is_not_kept() -> None:
    """c gets what changed while it was away. A page of that is newer than all that b has, and no mark tells of it.

    b's map of c begins after the entry for which a's map has that page. Rule: a page below the cursor is not written
    before the superblock says how new it becomes. (tests/native/test_core_copy.py has that rule alone: here a mark that
    is on its way may say it as well.)
    """
    with compiled_stage(3, 1) as s:
        s.client.quiet = True
        s.fill_volume(s.a)
        s.run(3)
        write_on_a(s, [LATE], 5)
        s.world.kill_node(s.c)
        s.until(lambda: s.in_sync == {s.a, s.b})
        # Applied by neither when their maps began; b has applied it when its map begins anew.
        s.run(3)
        s.world.kill_node(s.b)
        s.cluster.room.clear(s.files(s.b).absences_fd)
        s.world.start_node(s.b)
        s.until(lambda: s.in_sync == {s.a, s.b}, seconds=30)
        before = s.look(s.a).head
        while tail(s) <= before:
            write_on_a(s, (page for page in range(3 * MARK_PAGES) if page not in s.client.pages), 6)
        end = alone(s)
        copy_begins(s)
        assert s.superblock(s.c, 0).number("base_cursor") > LATE
        assert write_on_a(s, [LATE], 7) > end
        s.until(lambda: late_page(s) == 7, look_s=0.0002)
        goes_on_from_b(s, end, power=False)
