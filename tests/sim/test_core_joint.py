"""A replica that was away writes many batches of its primary at once, on the compiled core (wal/joint.pyx)."""

from __future__ import annotations

import pytest

from tests.support.compiled import CompiledStage, compiled_stage

#: Single pages, one batch each, that b misses.
MISSED = 60
#: What one operation of b's disk takes at most when it returns, and what fewer than MISSED of them take together.
SLOW_S = 0.1
TOGETHER_S = MISSED * SLOW_S / 4


def returns(s: CompiledStage) -> None:
    """b was away while a wrote alone, and is being started on a slow disk."""
    s.to_one()
    s.client.quiet = True
    pages, end = sorted(s.client.pages), s.look(s.a).commit + MISSED
    for turn in range(4 * MISSED):
        # Some are refused: one of the client's two paths may have a reservation.
        _value, answer = s.write(s.a, pages[turn % len(pages)])
        s.until(answer.done)
        if s.look(s.a).commit >= end:
            break
    assert s.look(s.a).commit >= end
    s.slow_disk(s.b, SLOW_S)
    s.world.start_node(s.b)


def ranges(s: CompiledStage) -> list[int]:
    """Where the range of entries that floors say nothing of ends, in each superblock copy of b; 0 for none."""
    return [s.superblock(s.b, copy).number("joint_to") for copy in (0, 1)]


def test_batches_are_written_together_and_floors_count_again_before_the_replica_is_in_sync() -> (
    None
):
    with compiled_stage(2, 1) as s:
        returns(s)
        s.until(lambda: all(ranges(s)))
        end = ranges(s)[0]
        assert s.look(s.b).durable < end - MISSED // 2, "most of it is still to come"
        assert s.until(lambda: s.look(s.b).durable >= end) < TOGETHER_S
        while s.b not in s.in_sync:
            s.run(0.002)
        assert ranges(s) == [0, 0]
        s.ends_well()


def test_a_log_whose_link_is_gone_is_written_together_to_its_end() -> None:
    """Whoever fences the replica, or closes it, waits for that."""
    with compiled_stage(2, 1) as s:
        returns(s)
        # The range is on its way to the superblock, and what it will cover waits.
        s.until(lambda: any(ranges(s)), look_s=0.002)
        assert s.look(s.b).head > s.look(s.b).durable + MISSED // 2
        s.cluster.kill_node(s.a)
        assert s.until(lambda: s.look(s.b).durable == s.look(s.b).head) < TOGETHER_S
        s.run(0.2)
        s.world.start_node(s.a)
        s.until(lambda: s.b in s.in_sync)
        assert ranges(s) == [0, 0]
        s.ends_well()


@pytest.mark.parametrize("seed", range(1, 9))
def test_power_lost_within_a_write_of_many_batches_leaves_a_torn_tail_and_no_damage(
    seed: int,
) -> None:
    """Any of them may be there without those before it, whose floors say that they were durable."""
    with compiled_stage(2, 1, seed) as s:
        returns(s)
        s.until(lambda: all(ranges(s)), look_s=0.002)
        s.until(lambda: s.look(s.b).head > s.look(s.b).durable + 4, look_s=0.002)
        s.run(0.02)
        s.lose_power(s.b, strike="tear")
        s.works_again(s.b)
        s.run(0.2)
        s.world.start_node(s.b)
        s.until(lambda: s.b in s.in_sync)
        assert not [event for event in s.world.events if "replica.damaged" in event]
        assert ranges(s) == [0, 0]
        s.ends_well()
