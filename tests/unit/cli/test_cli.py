"""The command line against a fake master on a real socket: output, sentences, exit statuses."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from sparrow.authority.types import PlacementVerdict
from sparrow.base.errors import FailedPrecondition, TimedOut
from sparrow.base.ids import Lsn, NodeId, ReplicaId, VolumeId
from sparrow.cli.common import MASTER_DEFAULT, find_master
from sparrow.cli.main import main
from sparrow.lifecycle.attachment import AttachedElsewhere
from sparrow.rpc.messages import (
    CandidateView,
    CreateVolumeRequest,
    DeleteVolumeRequest,
    DetachVolumeRequest,
    MoveProgress,
    MoveVolumeRequest,
    NodeDetails,
    RecoverStaleRequest,
    ReplacementView,
    ScrubReport,
    ScrubRequest,
    ScrubStatus,
    SetNodeStateRequest,
    VerifyProgress,
    VolumeWhy,
)
from sparrow.store.sqlite import SqliteStore
from tests.support.fake_master import FakeMaster, node_view, volume_view


@dataclass(frozen=True)
class Ran:
    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def master() -> Iterator[FakeMaster]:
    nodes = (
        node_view("n1", primary_count=1),
        node_view("n2", state="lost", last_heard_s=61.25),
        node_view("n3", state="never_seen", iscsi_addr="", pool_total_bytes=0),
    )
    with FakeMaster(volume_view("demo"), nodes=nodes) as fake:
        yield fake


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARROW_MASTER", raising=False)

    def go(*arguments: str, master: FakeMaster | None = None) -> Ran:
        if master is not None:
            monkeypatch.setenv("SPARROW_MASTER", master.address)
        monkeypatch.setattr(sys, "argv", ["sparrow", *arguments])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else (0 if end.code is None else 1)
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return Ran(status, shown.out, shown.err)

    return go


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


def test_nodes_are_listed_with_their_state(run: Run, master: FakeMaster) -> None:
    out = run("node", "list", master=master).out.splitlines()
    assert out[1].split()[:4] == ["n1", "ready", "active", "-"]
    assert "61.2 s ago" in out[2]
    assert out[3].rstrip().endswith("never")


def test_nobody_there_names_the_address_and_what_to_start(run: Run) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        ran = run("volume", "list", "--master", address)
    assert ran.status == 6
    assert ran.err.splitlines() == [
        f"Error: No master answers at {address}.",
        "Start a cluster with `sparrow up`, or name its master with --master HOST:PORT.",
    ]


@pytest.mark.parametrize("address", ["nonsense", "host:", "host:99999"])
def test_an_address_that_is_none_is_a_usage_error(run: Run, address: str) -> None:
    ran = run("volume", "list", "--master", address)
    assert ran.status == 2
    assert "The master's address is off" in ran.err


def test_an_unknown_verb_is_a_usage_error(run: Run) -> None:
    assert run("volume", "explode").status == 2


def test_the_version_is_printed(run: Run) -> None:
    assert run("--version").out.startswith("sparrow 0.")


def test_the_master_is_the_option_then_the_environment_then_the_cluster_here(
    tmp_path: Path,
) -> None:
    (tmp_path / "sparrow-data").mkdir()
    here = {"version": 1, "master": {"addr": "127.0.0.1:9000"}}
    assert find_master(None, environment={}, directory=tmp_path) == MASTER_DEFAULT
    (tmp_path / "sparrow-data" / "cluster.json").write_text(json.dumps(here))
    assert find_master(None, environment={}, directory=tmp_path) == "127.0.0.1:9000"
    named = {"SPARROW_MASTER": "m:1"}
    assert find_master(None, environment=named, directory=tmp_path) == "m:1"
    assert find_master("m:2", environment=named, directory=tmp_path) == "m:2"


def test_a_broken_cluster_file_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / "sparrow-data").mkdir()
    (tmp_path / "sparrow-data" / "cluster.json").write_text("{")
    assert find_master(None, environment={}, directory=tmp_path) == MASTER_DEFAULT


def test_the_masters_settings_are_printed_with_their_sources(run: Run, tmp_path: Path) -> None:
    own = ("--data", str(tmp_path / "m"), "--cluster-key", str(tmp_path / "k"))
    ran = run("master", "run", *own, "--print-config")
    shown = json.loads(ran.out)
    assert shown["data"]["source"] == "flag"
    assert shown["listen"] == {
        "value": "127.0.0.1:7400",
        "source": "default",
        "meaning": shown["listen"]["meaning"],
    }
    assert not (tmp_path / "m").exists(), "only printed"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "data is not set"),
        (("--data", "m"), "cluster_key is not set"),
        (
            ("--data", "m", "--cluster-key", "k", "--listen", "nowhere"),
            "listen: 'nowhere' is not host:port",
        ),
        (
            ("--data", "m", "--cluster-key", "k", "--log-level", "loud"),
            "log_level: 'loud' is no level",
        ),
        (("--data", "m", "--colour", "red"), "There is no flag --colour."),
    ],
)
def test_settings_of_the_master_that_are_off_are_named(
    run: Run, arguments: tuple[str, ...], words: str
) -> None:
    ran = run("master", "run", *arguments)
    assert ran.status == 2
    assert words in ran.err


def test_one_store_has_one_master(run: Run, tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "m")
    own = ("--data", str(tmp_path / "m"), "--cluster-key", str(tmp_path / "k"))
    ran = run("master", "run", *own, "--listen", "127.0.0.1:0")
    store.close()
    assert ran.status == 5
    assert f"in use by process {os.getpid()}" in ran.err


def details(*left: str, text: str = "", state: str = "draining") -> NodeDetails:
    moves = tuple(
        ReplacementView(
            volume=VolumeId(name),
            replica_id=ReplicaId("r2"),
            node_id=NodeId("n2"),
            successor="r4",
            successor_node="n4",
            stage="rebuild",
            text=text,
            cause="n2 is being drained",
        )
        for name in left
    )
    return NodeDetails(
        node=node_view("n2", desired_state=state),
        replacements=moves,
        volumes_left=left,
        topology_version=9,
    )


def test_a_drain_that_waits_tells_each_step_once_and_that_the_node_is_empty(
    run: Run, master: FakeMaster
) -> None:
    rebuilt = "r4 on n4 is being rebuilt"
    master.details = [
        details("a", text="n4 makes the files of r4"),
        details("a", text=rebuilt),
        details("a", text=rebuilt),
        details(),
    ]
    ran = run("node", "drain", "n2", "--wait", master=master)
    assert (ran.status, ran.out) == (0, "Node n2 is empty.\n")
    assert ran.err.splitlines() == ["a: n4 makes the files of r4", f"a: {rebuilt}"]
    assert master.seen[0] == SetNodeStateRequest(node_id="n2", state="draining")


def test_a_drain_that_does_not_wait_says_what_is_left(run: Run, master: FakeMaster) -> None:
    master.details = [details("a", "b")]
    ran = run("node", "drain", "n2", master=master)
    assert ran.status == 0
    assert "2 volumes are still to be moved from node n2: a, b" in ran.out
    assert "`sparrow node drain n2 --wait`" in ran.out
    as_json = run("node", "drain", "n2", "--output", "json", master=master)
    assert json.loads(as_json.out)["volumes_left"] == ["a", "b"]


@pytest.mark.parametrize(("verb", "state"), [("cordon", "cordoned"), ("uncordon", "active")])
def test_a_wish_about_a_node_reaches_the_master(
    run: Run, master: FakeMaster, verb: str, state: str
) -> None:
    master.details = [details(state=state)]
    assert run("node", verb, "n2", master=master).status == 0
    assert master.seen == [SetNodeStateRequest(node_id="n2", state=state)]


def test_only_a_lost_node_is_removed_and_only_when_confirmed(run: Run, master: FakeMaster) -> None:
    master.details = [details("a", state="lost")]
    living = run("node", "remove", "n2", master=master)
    assert living.status == 2
    assert "`sparrow node drain n2`" in living.err
    unconfirmed = run("node", "remove", "n2", "--lost", master=master)
    assert unconfirmed.status == 2
    assert "nobody is there to confirm it" in unconfirmed.err
    assert not any(isinstance(one, SetNodeStateRequest) for one in master.seen)
    ran = run("node", "remove", "n2", "--lost", "--confirm", "n2", master=master)
    assert ran.status == 0
    assert master.seen[-1] == SetNodeStateRequest(node_id="n2", state="lost", confirm="n2")
    assert "`sparrow node remove n2 --lost --wait`" in ran.out


def test_a_loss_that_the_master_refuses_is_a_sentence(run: Run, master: FakeMaster) -> None:
    master.refuse = FailedPrecondition("Node n2 is alive.", hint="Drain it.")
    ran = run("node", "remove", "n2", "--lost", "--confirm", "n2", master=master)
    assert (ran.status, ran.err) == (5, "Error: Node n2 is alive.\nDrain it.\n")


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


@pytest.mark.parametrize(
    ("process", "needed"),
    [
        ("node", ["--node-id", "n1", "--pool", "p", "--master", "127.0.0.1:7400"]),
        ("master", ["--data", "m"]),
    ],
)
def test_a_process_starts_without_the_options_of_other_verbs(
    process: str, needed: list[str], tmp_path: Path
) -> None:
    script = f"""
import gc, sys
from sparrow.cli.main import main
sys.argv = ["sparrow", "{process}", "run", "--print-config", "--cluster-key", "k", *{needed}]
try:
    main()
except SystemExit as end:
    assert end.code == 0, end.code
assert "sparrow.{process}.app" in sys.modules
assert not {{"typer", "sparrow.cli.root"}} & set(sys.modules)
assert gc.isenabled()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cluster_key" in done.stdout


@pytest.mark.parametrize("process", ["node", "master"])
def test_help_on_a_process_tells_how_to_see_its_settings(run: Run, process: str) -> None:
    ran = run(process, "run", "--help")
    assert ran.status == 0
    assert "--print-config" in ran.out
