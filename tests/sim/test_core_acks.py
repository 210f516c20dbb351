"""What a follower acknowledges, on the compiled core: what its disk has, and all before it."""

from __future__ import annotations

from tests.support.compiled import compiled_stage


def test_nothing_commits_that_a_follower_has_only_received() -> None:
    """b's disk ends the writes of its log in any order, some long after others that came later.

    Rule: an ack names the end of the unbroken run of batches that are durable, not of those received.
    """
    with compiled_stage(2, 1) as s:
        s.client.quiet = True
        s.slow_disk(s.b, 0.2)
        before, pages = s.look(s.a).commit, sorted(s.client.pages)
        for turn in range(40):
            s.client.write(s.plane(s.a), pages[turn % len(pages)], 1)
            for _ in range(5):
                s.run(0.004)
                assert s.look(s.a).commit <= s.look(s.b).durable
        assert s.look(s.a).commit > before
        s.ends_well()
