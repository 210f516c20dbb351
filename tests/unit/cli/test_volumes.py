"""Verbs of volumes: made, shown, attached, moved, explained, deleted."""

from __future__ import annotations

import json

import pytest

from sparrow.authority.types import PlacementVerdict
from sparrow.base.errors import FailedPrecondition, TimedOut
from sparrow.base.ids import NodeId, ReplicaId, VolumeId
from sparrow.lifecycle.attachment import AttachedElsewhere
from sparrow.rpc.messages import (
    CandidateView,
    CreateVolumeRequest,
    DeleteVolumeRequest,
    DetachVolumeRequest,
    MoveProgress,
    MoveVolumeRequest,
    VolumeWhy,
)
from tests.support.command_line import Run, details
from tests.support.fake_master import FakeMaster


def test_create_sends_what_was_asked_and_says_where_it_is_served(
    run: Run, master: FakeMaster
) -> None:
    ran = run("volume", "create", "data", "--size", "2GiB", "--replicas", "2", master=master)
    assert (ran.status, ran.err) == (0, "")
    assert master.seen == [
        CreateVolumeRequest(name="data", size_bytes=2 << 30, replication_factor=2)
    ]
    assert "Volume data is healthy, served at iscsi://127.0.0.1:7412/iqn" in ran.out


def test_create_in_json_is_one_document(run: Run, master: FakeMaster) -> None:
    ran = run("volume", "create", "data", "--size", "1GiB", "--output", "json", master=master)
    assert json.loads(ran.out)["line"]["lineage"] == {"epoch": 2, "endpoint_version": 3}


def test_a_refusal_of_the_master_is_one_sentence_a_hint_and_its_exit_status(
    run: Run, master: FakeMaster
) -> None:
    ran = run("volume", "create", "demo", "--size", "1GiB", master=master)
    assert ran.status == 4
    assert ran.out == ""
    assert ran.err == "Error: Volume demo exists already.\nChoose another name.\n"


def test_a_volume_still_being_created_has_the_status_of_a_time_out(
    run: Run, master: FakeMaster
) -> None:
    master.refuse = TimedOut("Volume big is still being created.", hint="Look again.")
    assert run("volume", "create", "big", "--size", "1GiB", master=master).status == 7


def test_a_precondition_has_its_own_status(run: Run, master: FakeMaster) -> None:
    master.refuse = FailedPrecondition("Only 1 of 3 replicas can be placed.")
    assert run("volume", "create", "big", "--size", "1GiB", master=master).status == 5


@pytest.mark.parametrize("size", ["much", "1G", "-1", "0.3KiB"])
def test_a_size_that_is_none_never_reaches_the_master(
    run: Run, master: FakeMaster, size: str
) -> None:
    ran = run("volume", "create", "data", "--size", size, master=master)
    assert ran.status == 2
    assert ran.err.startswith("Error: ")
    assert master.seen == []


@pytest.mark.parametrize("option", ["--replicas", "--block-size", "--min-in-sync"])
def test_a_number_no_message_can_carry_is_refused(
    run: Run, master: FakeMaster, option: str
) -> None:
    ran = run("volume", "create", "data", "--size", "1GiB", option, "-1", master=master)
    assert ran.status == 2
    assert f"{option} -1 is not possible" in ran.err
    assert master.seen == []


def test_list_has_one_row_per_volume(run: Run, master: FakeMaster) -> None:
    out = run("volume", "list", master=master).out.splitlines()
    assert out[0].split() == ["NAME", "SIZE", "REPLICAS", "STATE", "PRIMARY", "SERVED", "AT"]
    assert out[1].split()[:2] == ["demo", "1"]
    assert "3 of 3 in sync" in out[1]
    assert out[1].endswith("iscsi://127.0.0.1:7412/iqn.2025-01.io.sparrow:demo/0")
    assert len(out) == 2


def test_list_of_nothing_says_how_to_make_one(run: Run) -> None:
    with FakeMaster() as empty:
        assert "sparrow volume create NAME" in run("volume", "list", master=empty).out
        assert json.loads(run("volume", "list", "-o", "json", master=empty).out) == []


def test_show_has_every_replica_and_lines_to_attach(run: Run, master: FakeMaster) -> None:
    out = run("volume", "show", "demo", master=master).out
    for words in ("r1", "n2", "epoch", "2.3", "iscsiadm -m discovery", "qemu-img info iscsi://"):
        assert words in out


def test_show_of_what_is_not_there_is_not_found(run: Run, master: FakeMaster) -> None:
    ran = run("volume", "show", "gone", master=master)
    assert (ran.status, ran.out) == (3, "")
    assert "There is no volume gone." in ran.err


def test_delete_without_a_person_or_yes_is_refused(run: Run, master: FakeMaster) -> None:
    ran = run("volume", "delete", "demo", master=master)
    assert ran.status == 2
    assert "Add --yes." in ran.err
    assert "demo" in master.volumes


def test_delete_with_yes_deletes(run: Run, master: FakeMaster) -> None:
    assert (
        run("volume", "delete", "demo", "--yes", master=master).out == "Volume demo is deleted.\n"
    )
    assert master.seen == [DeleteVolumeRequest(name="demo")]


def test_delete_of_what_is_not_there_is_not_found(run: Run, master: FakeMaster) -> None:
    assert run("volume", "delete", "gone", "--yes", master=master).status == 3


def test_a_volume_is_attached_shown_and_detached(run: Run, master: FakeMaster) -> None:
    said = run("volume", "attach", "demo", "host1", master=master).out
    assert said == "Volume demo is attached to host1.\n"
    shown = run("volume", "show", "demo", master=master).out.splitlines()
    assert ["attached", "to", "host1"] in [line.split() for line in shown]
    said = run("volume", "detach", "demo", "host1", master=master).out
    assert said == "Volume demo is attached to nothing.\n"
    run("volume", "detach", "demo", master=master)
    asked = [one for one in master.seen if isinstance(one, DetachVolumeRequest)]
    assert [one.host for one in asked] == ["host1", ""]
    master.refuse = AttachedElsewhere("Volume demo is attached to host1, not to host2.")
    refused = run("volume", "attach", "demo", "host2", master=master)
    assert refused.status == 5
    assert "attached to host1, not to host2" in refused.err


def test_a_move_tells_how_far_it_is_and_what_became_of_it(run: Run, master: FakeMaster) -> None:
    master.move = [
        MoveProgress(text="r2 on n2 is to become primary."),
        MoveProgress(text="r2 on n2 serves volume demo.", finished=True),
    ]
    ran = run("volume", "move", "demo", "--to", "n2", master=master)
    assert (ran.status, ran.out) == (0, "r2 on n2 serves volume demo.\n")
    assert ran.err == "r2 on n2 is to become primary.\n"
    assert master.seen[-1] == MoveVolumeRequest(name="demo", to="n2")
    as_json = run("volume", "move", "demo", "--to", "r2", "--output", "json", master=master)
    assert json.loads(as_json.out)["finished"] is True


def test_a_move_that_is_refused_or_breaks_off_is_a_sentence(run: Run, master: FakeMaster) -> None:
    master.move = [MoveProgress(text="r2 on n2 is to become primary.")]
    ran = run("volume", "move", "demo", "--to", "n2", master=master)
    assert ran.status != 0
    assert "stopped before it told" in ran.err
    master.refuse = FailedPrecondition("Volume demo stays where it is: r2 on n2 is not in sync.")
    ran = run("volume", "move", "demo", "--to", "n2", master=master)
    assert ran.status == 5
    assert ran.err.startswith("Error: Volume demo stays where it is")


@pytest.mark.parametrize("command", [("why", "demo"), ("volume", "why", "demo")])
def test_why_shows_candidates_places_and_replacements(
    run: Run, master: FakeMaster, command: tuple[str, ...]
) -> None:
    master.why = VolumeWhy(
        name=VolumeId("demo"),
        state="degraded",
        cause="r2 on n2 not in sync (2 of 3)",
        decision="the primary is well",
        topology_version=12,
        placement=(
            PlacementVerdict(
                node_id=NodeId("n1"), chosen=True, reason="has room", room_bytes=1 << 30
            ),
            PlacementVerdict(
                node_id=NodeId("n4"), chosen=False, reason="it is cordoned", room_bytes=0
            ),
        ),
        candidates=(
            CandidateView(
                replica_id=ReplicaId("r1"),
                node_id=NodeId("n1"),
                primary=True,
                in_sync=True,
                rejected=None,
            ),
            CandidateView(
                replica_id=ReplicaId("r2"),
                node_id=NodeId("n2"),
                primary=False,
                in_sync=False,
                rejected="it is not in sync",
            ),
        ),
        replacements=details("demo", text="n4 is not heard").replacements,
    )
    ran = run(*command, master=master)
    assert ran.status == 0, ran.err
    for words in (
        "r2 on n2 not in sync (2 of 3)",
        "version 12",
        "it is primary",
        "no: it is not in sync",
        "has room",
        "it is cordoned",
        "r4 on n4",
        "n4 is not heard",
    ):
        assert words in ran.out
    as_json = json.loads(run(*command, "--output", "json", master=master).out)
    assert as_json["candidates"][1]["rejected"] == "it is not in sync"
    assert run("why", "none", master=master).status == 3
