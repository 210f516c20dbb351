"""`volume verify` and `volume scrub`."""

from __future__ import annotations

import json

import pytest

from sparrow.base.ids import Lsn, ReplicaId, VolumeId
from sparrow.rpc.messages import ScrubReport, ScrubRequest, ScrubStatus, VerifyProgress
from tests.support.command_line import Run
from tests.support.fake_master import FakeMaster


def progress(done: int, *pages: int, finished: bool = False) -> VerifyProgress:
    return VerifyProgress(
        pages_done=done,
        pages_total=100,
        lsn=Lsn(9),
        replicas=(ReplicaId("r1"), ReplicaId("r2")),
        different_pages=pages,
        finished=finished,
    )


def test_verify_of_equal_replicas_says_what_was_compared(run: Run, master: FakeMaster) -> None:
    master.verify = [progress(50), progress(100, finished=True)]
    ran = run("volume", "verify", "demo", master=master)
    assert (ran.status, ran.out) == (0, "Volume demo: 100 pages are equal on r1, r2.\n")


def test_verify_lists_every_different_page_and_fails(run: Run, master: FakeMaster) -> None:
    master.verify = [progress(50, 3, 4), progress(100, 77, finished=True)]
    ran = run("volume", "verify", "demo", master=master)
    assert ran.status == 9
    assert ran.out.splitlines() == [
        "page 3 differs (bytes 12288 to 16383)",
        "page 4 differs (bytes 16384 to 20479)",
        "page 77 differs (bytes 315392 to 319487)",
    ]
    assert "3 of 100 pages of volume demo differ" in ran.err


def test_verify_in_json_carries_the_pages(run: Run, master: FakeMaster) -> None:
    master.verify = [progress(100, 3, finished=True)]
    ran = run("volume", "verify", "demo", "-o", "json", master=master)
    assert ran.status == 9
    assert json.loads(ran.out)["different_pages"] == [3]


@pytest.mark.parametrize("part", [[], [1]])
def test_verify_that_ends_early_is_no_success(
    run: Run, master: FakeMaster, part: list[int]
) -> None:
    master.verify = [progress(50) for _ in part]
    ran = run("volume", "verify", "demo", master=master)
    assert ran.status == 6
    assert "stopped before its end" in ran.err


def scrub_status(*, running: bool = False, unrepairable: int = 0) -> ScrubStatus:
    return ScrubStatus(
        replica_id=ReplicaId("r1"),
        running=running,
        pages_done=64 if running else 256,
        pages_total=256,
        batches=3,
        damaged=2 + unrepairable,
        repaired=2,
        unrepairable=unrepairable,
        different=0,
        finished_at=0.0 if running else 1.7e9,
    )


def test_scrub_starts_one_and_tells_how_far_it_is(run: Run, master: FakeMaster) -> None:
    master.scrubs = [
        ScrubReport(replicas=(scrub_status(running=True),), unreachable=(ReplicaId("r2"),))
    ]
    ran = run("volume", "scrub", "demo", master=master)
    assert (ran.status, ran.err) == (0, "")
    assert master.seen == [ScrubRequest(volume_id=VolumeId("demo"), start=True)]
    assert "running, 25 %" in ran.out
    assert "unreachable" in ran.out


def test_scrub_waits_and_fails_when_something_could_not_be_repaired(
    run: Run, master: FakeMaster
) -> None:
    master.scrubs = [
        ScrubReport(replicas=(scrub_status(running=True),), unreachable=()),
        ScrubReport(replicas=(scrub_status(unrepairable=1),), unreachable=()),
    ]
    ran = run("volume", "scrub", "demo", "--wait", master=master)
    assert ran.status == 9
    assert "1 things of volume demo" in ran.err
    assert [request.start for request in master.seen if isinstance(request, ScrubRequest)] == [
        True,
        False,
    ]
