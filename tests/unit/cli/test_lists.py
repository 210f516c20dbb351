"""Long lists: printed page by page, as if all of it had come at once."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from sparrow.authority.recovery import AuditEntry, MarkKind
from sparrow.authority.types import SkippedRecord
from sparrow.base.ids import NodeId, VolumeId
from sparrow.cli.tables import plain
from sparrow.rpc.messages import AuthorityStatus, StoreCopyView, UnconfirmedVolume
from sparrow.rpc.paging import PAGE_SIZE
from tests.support.command_line import Run
from tests.support.fake_master import FakeMaster, node_view, volume_view

COUNT = 2 * PAGE_SIZE + 10
#: A page that needs wider columns than the one before it.
LONG_NAME = "v" * 60

STATUS = AuthorityStatus(
    master_generation=1,
    skipped=(SkippedRecord(volume_id=VolumeId("vol0400"), cause="its checksum is off"),),
    lines=(),
    unconfirmed=(
        UnconfirmedVolume(
            volume_id=VolumeId("vol0001"),
            kind=MarkKind.RESTORED,
            cause="a backup",
            newest=None,
            missing=("no answer from n1",),
        ),
    ),
    awaited_nodes=("n9:1",),
    audit=(
        AuditEntry(verb="recover", volume_id=VolumeId("a"), who="me", detail='"x"\ny', at="now"),
    ),
    copies=(StoreCopyView(node_id=NodeId("n1"), master_generation=1, revision=7, current=True),),
)


@pytest.fixture
def many() -> Iterator[FakeMaster]:
    names = [*(f"vol{number:04d}" for number in range(COUNT - 1)), LONG_NAME]
    nodes = tuple(
        node_view(f"node-{number:04d}", troubles=("no peers",) if number == 400 else ())
        for number in range(COUNT)
    )
    with FakeMaster(*(volume_view(name) for name in names), nodes=nodes) as fake:
        fake.authority = STATUS
        yield fake


def test_volumes_of_all_pages_are_one_table(run: Run, many: FakeMaster) -> None:
    lines = run("volume", "list", master=many).out.splitlines()
    assert len(lines) == 1 + COUNT
    assert lines[0].startswith("NAME")
    assert [line.split()[0] for line in lines[1:]] == sorted(many.volumes)
    columns = {line.index("3 of 3 in sync") for line in lines[1 : PAGE_SIZE * 2]}
    assert len(columns) == 1, "the second page stands under the first"
    assert lines[-1].index("3 of 3 in sync") > columns.pop(), (
        "and the last one has the room it needs"
    )


def test_volumes_of_all_pages_are_one_document(run: Run, many: FakeMaster) -> None:
    whole = plain(tuple(many.volumes[name] for name in sorted(many.volumes)))
    out = run("volume", "list", "-o", "json", master=many).out
    assert out == json.dumps(whole, indent=2) + "\n"


def test_nodes_of_all_pages_are_listed_and_then_their_troubles(run: Run, many: FakeMaster) -> None:
    lines = run("node", "list", master=many).out.splitlines()
    assert len(lines) == 1 + COUNT + 1
    assert lines[-1] == "node-0400: no peers"
    out = run("node", "list", "-o", "json", master=many).out
    assert out == json.dumps(plain(many.nodes), indent=2) + "\n"


def test_the_authoritys_status_is_one_text(run: Run, many: FakeMaster) -> None:
    lines = run("authority", "status", master=many).out.splitlines()
    assert lines[0] == "master generation 1"
    assert [line.split()[1] for line in lines[1 : COUNT + 1]] == sorted(many.volumes)
    assert [line.split()[0] for line in lines[COUNT + 1 : COUNT + 6]] == [
        *("skipped", "unconfirmed", "missing:", "awaited", "copy")
    ]
    assert lines[COUNT + 6].startswith("audit now me: recover a")


def test_the_authoritys_status_is_one_document_of_the_same_keys(run: Run, many: FakeMaster) -> None:
    out = run("authority", "status", "-o", "json", master=many).out
    expected = plain(STATUS)
    del expected["next_page_token"]
    expected["lines"] = [plain(many.volumes[name].line) for name in sorted(many.volumes)]
    assert json.loads(out) == expected
    assert out == json.dumps(json.loads(out), indent=2) + "\n"


def test_the_status_of_nothing_is_a_document_too(run: Run) -> None:
    with FakeMaster() as empty:
        found = json.loads(run("authority", "status", "-o", "json", master=empty).out)
    assert (found["master_generation"], found["lines"], found["audit"]) == (1, [], [])


@pytest.mark.parametrize(
    ("command", "first", "last"),
    [
        (("volume", "list"), "vol0000", f"vol{PAGE_SIZE - 1:04d}"),
        (("volume", "list", "-o", "json"), "vol0000", f"vol{PAGE_SIZE - 1:04d}"),
        (("node", "list"), "node-0000", f"node-{PAGE_SIZE - 1:04d}"),
        (("authority", "status"), "vol0000", f"vol{PAGE_SIZE - 1:04d}"),
        (("authority", "status", "-o", "json"), "vol0000", f"vol{PAGE_SIZE - 1:04d}"),
    ],
)
def test_what_came_before_the_master_went_away_was_printed_by_then(
    run: Run, many: FakeMaster, command: tuple[str, ...], first: str, last: str
) -> None:
    many.stops_within_lists = True
    ran = run(*command, master=many)
    assert (ran.status, ran.err) == (6, "Error: The master stops.\n")
    assert first in ran.out
    assert last in ran.out
    assert f"{PAGE_SIZE:04d}" not in ran.out
