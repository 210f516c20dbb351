"""`sparrow volume access` and `sparrow secret`: what is let in, in one call or several, and what nobody can mean."""

from __future__ import annotations

import io
import sys

import pytest

from sparrow.rpc.messages import SetAccessRequest
from tests.support.command_line import Run
from tests.support.fake_master import FakeMaster

HOST = "iscsi:iqn.2004-10.com.example:host1"


def rows(out: str) -> list[list[str]]:
    return [line.split() for line in out.splitlines()[1:]]


def test_several_are_let_in_by_one_call_and_taken_out_by_another(
    run: Run, master: FakeMaster
) -> None:
    allow = ("--allow", HOST, "--allow", "nbd:*", "--allow", "nbd:client")
    ran = run("volume", "access", "demo", *allow, "--allow-none", master=master)
    assert (ran.status, ran.err) == (0, "")
    assert rows(ran.out) == [
        ["iscsi", HOST.removeprefix("iscsi:"), "nothing", "-"],
        ["nbd", "*", "nothing", "-"],
        ["nbd", "client", "its", "certificate", "-"],
    ]
    assert run("volume", "access", "demo", master=master).out == ran.out
    ran = run("volume", "access", "demo", "--remove", HOST, "--remove", "nbd:*", master=master)
    assert [row[1] for row in rows(ran.out)] == ["client"]


def test_a_secret_is_of_one_initiator(run: Run, master: FakeMaster) -> None:
    ran = run("volume", "access", "demo", "--allow", HOST, "--secret", "s1", master=master)
    assert rows(ran.out)[0][2:] == ["s1", "-"]
    ran = run(
        *("volume", "access", "demo", "--allow", HOST, "--allow", "iscsi:*", "--secret", "s1"),
        master=master,
    )
    assert ran.status == 2
    assert "belong to one --allow" in ran.err


def test_a_first_list_that_lets_nobody_in_is_refused_and_one_that_became_empty_says_so(
    run: Run, master: FakeMaster
) -> None:
    assert (
        "only initiators on the node's own machine"
        in run("volume", "access", "demo", master=master).out
    )
    ran = run("volume", "access", "demo", "--allow-none", master=master)
    assert ran.status == 2
    assert "an empty one would let nobody in.\nAdd --allow" in ran.err
    assert not [one for one in master.seen if isinstance(one, SetAccessRequest)]
    run("volume", "access", "demo", "--allow", HOST, "--allow-none", master=master)
    ran = run("volume", "access", "demo", "--remove", HOST, master=master)
    assert ran.out == "Nobody is let in: the list is empty.\n"
    assert run("volume", "access", "demo", "--remove", HOST, master=master).status == 3


def test_a_secret_that_nobody_gave_says_where_it_comes_from(
    run: Run, master: FakeMaster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\n")))
    ran = run("secret", "set", "s1", master=master)
    assert ran.status == 2
    assert ran.err.startswith("Error: No secret was given.\nIt is the content of --file")
