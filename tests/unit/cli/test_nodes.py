"""Verbs of nodes: listed, drained, given up."""

from __future__ import annotations

import json

import pytest

from sparrow.base.errors import FailedPrecondition
from sparrow.rpc.messages import SetNodeStateRequest
from tests.support.command_line import Run, details
from tests.support.fake_master import FakeMaster


def test_nodes_are_listed_with_their_state(run: Run, master: FakeMaster) -> None:
    out = run("node", "list", master=master).out.splitlines()
    assert out[1].split()[:4] == ["n1", "ready", "active", "-"]
    assert "61.2 s ago" in out[2]
    assert out[3].rstrip().endswith("never")


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
