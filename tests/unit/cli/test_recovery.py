"""`volume recover` and `volume discard-divergent`: nothing without the name repeated."""

from __future__ import annotations

from sparrow.base.errors import FailedPrecondition
from sparrow.rpc.messages import RecoverStaleRequest
from tests.support.command_line import Run
from tests.support.fake_master import FakeMaster

RECOVER = ("volume", "recover", "demo", "--from-stale", "r1", "--old-primary-is-off", "n2")


def test_a_recovery_says_what_is_lost_and_is_asked_for_only_when_the_name_is_repeated(
    run: Run, master: FakeMaster
) -> None:
    ran = run(*RECOVER, master=master)
    assert ran.status == 2
    assert "Entries 8 to 9 are lost." in ran.err
    assert "nobody is there to confirm it" in ran.err
    assert run(*RECOVER, "--confirm", "other", master=master).status == 2
    assert all(isinstance(one, RecoverStaleRequest) and one.plan_only for one in master.seen)

    ran = run(*RECOVER, "--accept-state", "rebuilding", "--confirm", "demo", master=master)
    assert ran.status == 0
    asked = master.seen[-1]
    assert isinstance(asked, RecoverStaleRequest)
    assert (asked.name, asked.replica_id, asked.old_primary_is_off) == ("demo", "r1", "n2")
    assert (asked.accept_state, asked.confirm, asked.plan_only) == ("rebuilding", "demo", False)
    assert "@" in asked.who
    assert "Volume demo goes on at (2,3) from r1 alone." in ran.out
    assert "Kept as they are: r2, r3." in ran.out
    assert "`sparrow volume discard-divergent demo REPLICA`" in ran.out


def test_a_recovery_that_the_master_refuses_is_a_sentence_and_asks_for_nothing(
    run: Run, master: FakeMaster
) -> None:
    master.refuse = FailedPrecondition("Volume demo is not recovered: n2 was heard.", hint="Wait.")
    ran = run(*RECOVER, "--confirm", "demo", master=master)
    assert (ran.status, ran.err) == (
        5,
        "Error: Volume demo is not recovered: n2 was heard.\nWait.\n",
    )
    assert len(master.seen) == 1


def test_what_was_kept_is_discarded_only_when_the_name_is_repeated(
    run: Run, master: FakeMaster
) -> None:
    discard = ("volume", "discard-divergent", "demo", "r2")
    assert run(*discard, master=master).status == 2
    assert master.seen == []
    ran = run(*discard, "--confirm", "demo", master=master)
    assert (ran.status, ran.out) == (0, "r2 of volume demo is rebuilt.\n")
    master.releases = False
    ran = run(*discard, "--confirm", "demo", master=master)
    assert ran.status == 0
    assert "its node was not told: start it, then repeat this" in ran.out
