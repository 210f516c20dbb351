"""What `sparrow up` says while the volumes of an earlier start are opened again."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from sparrow.base.errors import NotFound, SparrowError, TimedOut, Unavailable
from sparrow.base.ids import VolumeId
from sparrow.cli import up
from sparrow.cli.upstatus import TerminalReport
from sparrow.rpc.api_client import ApiClient
from sparrow.rpc.messages import GetVolumeRequest, VolumeView
from sparrow.rpc.server import Call
from sparrow.runtime.embedded import plan_cluster
from tests.support.fake_master import FakeMaster, volume_view


def opening(name: str, state: str = "unavailable") -> VolumeView:
    return replace(volume_view(name, state=state, cause="r1 on n1 opens it"), frontends=())


def waits_and_shows(master: FakeMaster, directory: Path) -> None:
    async def go() -> None:
        async with ApiClient(master.address) as client:
            await up._volumes_served(client, report)
            report.ready(await client.list_volumes())

    report = TerminalReport(plan_cluster(directory, nodes=3))
    asyncio.run(go())


def test_the_table_comes_when_the_volumes_are_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("a", "b", "c")
    with FakeMaster(
        opening("a"), opening("b"), volume_view("c"), opening("d", "deleting")
    ) as master:
        master.opened = {name: volume_view(name) for name in names}
        waits_and_shows(master, tmp_path)
        assert master.seen == [GetVolumeRequest(name=name, wait=True) for name in names[:2]]
    said, _, shown = capsys.readouterr().out.partition("\n\n")
    assert said.splitlines() == [
        "Waiting for volume a: r1 on n1 opens it, 2 of 4 volumes are served",
        "Waiting for volume b: r1 on n1 opens it, 3 of 4 volumes are served",
    ]
    assert shown.count("healthy") == 3
    assert "iscsiadm -m node" in shown
    assert "not served" not in shown


def test_a_volume_that_is_not_served_in_time_is_named_with_its_cause(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(up, "SERVED_S", 0.2)
    with FakeMaster(opening("demo")) as master:
        waits_and_shows(master, tmp_path)
    out = capsys.readouterr().out
    assert out.count("Waiting for volume demo: r1 on n1 opens it\n") == 1, "said once"
    assert "Volume demo is not served yet: r1 on n1 opens it.\n" in out
    assert f"logs are in {tmp_path / 'logs'}." in out
    assert "iscsiadm" not in out


def test_a_master_that_goes_away_meanwhile_ends_the_wait(tmp_path: Path) -> None:
    class Leaving(FakeMaster):
        async def _get(self, request: GetVolumeRequest, call: Call) -> VolumeView:
            raise Unavailable("The master stops.")

    with Leaving(opening("demo")) as master:
        waits_and_shows(master, tmp_path)


@pytest.mark.parametrize("error", [NotFound("It was deleted."), TimedOut("No answer in time.")])
def test_one_that_is_deleted_or_answers_late_is_not_the_end_of_the_wait_for_others(
    error: SparrowError, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Busy(FakeMaster):
        async def _get(self, request: GetVolumeRequest, call: Call) -> VolumeView:
            if request.name == "a":
                del self.volumes[VolumeId("a")]
                raise error
            return await super()._get(request, call)

    with Busy(opening("a"), opening("b")) as master:
        master.opened = {"b": volume_view("b")}
        waits_and_shows(master, tmp_path)
    out = capsys.readouterr().out
    assert "iscsiadm -m node" in out
    assert "not served" not in out
