"""ack=quorum on the compiled core: what a lagging replica may cost."""

from __future__ import annotations

from sparrow.authority.types import AckPolicy
from tests.support.compiled import compiled_stage


def test_l6_who_lags_behind_a_quorum_leaves_and_a_death_later_finds_a_whole_replica() -> None:
    """c grants and does not log; a and b commit without it. Then a dies.

    Rule: who lags is asked out although it holds nothing up, so b has everything and needs nobody's answer.
    """
    with compiled_stage(3, 2, ack=AckPolicy.QUORUM) as s:
        s.slow_disk(s.c, 8)
        s.until(lambda: s.in_sync == {s.a, s.b}, seconds=60)
        assert s.serves(s.a)
        value = s.written(s.a, 0)
        s.world.kill_node(s.a)
        s.until(lambda: s.serves(s.b), seconds=30)
        assert s.last_read(s.b, 0) >= value
        s.works_again(s.c)
        s.ends_well()
