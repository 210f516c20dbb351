"""ack=quorum on the compiled core: what a lagging replica may cost."""

from __future__ import annotations

from sparrow.authority.types import AckPolicy
from sparrow.rpc.messages import AskIntent
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


def test_who_cannot_open_for_what_it_lacks_leaves_that_to_one_that_has_everything() -> None:
    """c is fed nothing while the log goes round, nobody hears that it should leave, and it is made primary then.

    Rule: what it lacks is in nobody's log any more, so it asks to be relieved; a and b have everything, and either
    opens with the other's answer. Else nobody would serve for as long as c is primary.
    """
    with compiled_stage(3, 2, ack=AckPolicy.QUORUM) as s:
        value = s.written(s.a, 0)
        master = s.node(s.a).master
        ask = master.ask
        s.lose_asks(s.a, AskIntent.SHRINK_IN_SYNC)
        s.stall_feed(s.c)
        s.fill_log(s.a)
        s.move(s.c)
        s.until(lambda: s.heard("opening.blocked") > 0)
        s.stall_feed(s.c, stalled=False)
        master.ask = ask  # type: ignore[method-assign]
        s.until(lambda: s.serves(s.a) or s.serves(s.b), seconds=30)
        assert s.last_read(s.a if s.serves(s.a) else s.b, 0) >= value
        s.ends_well()
