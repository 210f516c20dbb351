"""The boundary guards hold over the source tree, and each of them catches what it forbids."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from google.protobuf.descriptor import Descriptor

from sparrow.rpc.gen import sparrow_pb2 as pb
from tests.support import guards
from tests.support.guards import GUARDS, Guard, Module, modules

TREE = tuple(modules())


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.__name__ for guard in GUARDS])
def test_guard_holds_over_the_tree(guard: Guard) -> None:
    found = [f"{module.place}: {fault}" for module in TREE for fault in guard(module)]
    assert found == []


def test_guards_look_at_the_whole_product() -> None:
    rooms = {module.room for module in TREE}
    assert {"authority", "store", "frontends", "lifecycle", "master", "node", "rpc"} <= rooms
    places = {module.place for module in TREE}
    assert set(guards.LINE_MAKERS) <= places
    for asker in guards.ASKERS:
        assert any(place.startswith(asker) for place in places), asker


TYPES = "from sparrow.authority.types import Ask, Line, Lineage\n"
RETYPES = "from dataclasses import replace\n"

FORBIDDEN = [
    # G1: every way to make a line, or to change the epoch of one.
    (guards.lines_are_made_in_authority, "master/x.py", TYPES + "line = Line(volume_id='v')"),
    (guards.lines_are_made_in_authority, "node/x.py", TYPES + "at = Lineage(epoch=1)"),
    (guards.lines_are_made_in_authority, "authority/loop.py", TYPES + "at = Lineage(epoch=1)"),
    (
        guards.lines_are_made_in_authority,
        "node/x.py",
        "from sparrow.authority.types import Line as L\nline = L()",
    ),
    (
        guards.lines_are_made_in_authority,
        "node/x.py",
        "from sparrow.authority import types as t\nline = t.Line()",
    ),
    (
        guards.lines_are_made_in_authority,
        "node/x.py",
        "import sparrow.authority.types\nline = sparrow.authority.types.Line()",
    ),
    (
        guards.lines_are_made_in_authority,
        "node/x.py",
        "import sparrow.authority.types as t\nmake: type = t.Line\nline = make()",
    ),
    (guards.lines_are_made_in_authority, "node/x.py", TYPES + "make = Line\nagain = make\nagain()"),
    (guards.lines_are_made_in_authority, "node/x.py", TYPES + "(make := Line)()"),
    (guards.lines_are_made_in_authority, "node/x.py", TYPES + "partial(Line, volume_id='v')"),
    (guards.lines_are_made_in_authority, "node/x.py", TYPES + "KINDS = {'line': Line}"),
    (guards.lines_are_made_in_authority, "node/x.py", TYPES + "def make(cls=Line): ..."),
    (
        guards.lines_are_made_in_authority,
        "node/x.py",
        "from sparrow.authority import types\nmake = getattr(types, 'Line')",
    ),
    (guards.lines_are_made_in_authority, "node/x.py", "from sparrow.authority.types import *"),
    (
        guards.lines_are_made_in_authority,
        "node/x.py",
        "from sparrow.authority.publisher import Line\nLine()",
    ),
    (guards.lines_are_made_in_authority, "node/x.py", RETYPES + "replace(line, lineage=newer)"),
    (guards.lines_are_made_in_authority, "node/x.py", RETYPES + "replace(at, epoch=at.epoch + 1)"),
    (
        guards.lines_are_made_in_authority,
        "node/x.py",
        "import dataclasses\ndataclasses.replace(at, endpoint_version=2)",
    ),
    (guards.lines_are_made_in_authority, "node/x.py", "object.__setattr__(at, 'epoch', 7)"),
    # G2: asks.
    (guards.asks_are_made_where_decisions_are, "authority/observation.py", TYPES + "Ask()"),
    (guards.asks_are_made_where_decisions_are, "authority/builder.py", TYPES + "make = Ask"),
    (guards.asks_are_made_where_decisions_are, "master/driver.py", TYPES + "Ask(intent=1)"),
    (guards.asks_are_made_where_decisions_are, "lifecycle/placement.py", TYPES + "Ask(intent=1)"),
    (
        guards.evidence_knows_no_publisher,
        "authority/observation.py",
        "from sparrow.authority.publisher import Publisher",
    ),
    (
        guards.evidence_knows_no_publisher,
        "authority/controller.py",
        "from sparrow.authority import publisher",
    ),
    (
        guards.evidence_knows_no_publisher,
        "authority/decide.py",
        "import sparrow.authority.mint as m",
    ),
    (
        guards.evidence_knows_no_publisher,
        "authority/builder.py",
        "def f():\n    from sparrow.authority.mint import next_line",
    ),
    # G3: the pipeline goes one way.
    (
        guards.support_is_judged_from_facts,
        "authority/builder.py",
        "def build(volume_id: str, *, last: VolumeSnapshot | None) -> Outcome: ...",
    ),
    (
        guards.support_is_judged_from_facts,
        "authority/builder.py",
        "def build(before: 'Outcome') -> None: ...",
    ),
    (
        guards.support_is_judged_from_facts,
        "authority/observation.py",
        "from sparrow.authority.builder import VolumeSnapshot",
    ),
    # G4: the store.
    (guards.stores_count_nothing, "store/rows.py", TYPES + "Lineage(epoch=1, endpoint_version=1)"),
    (
        guards.stores_count_nothing,
        "store/sqlite.py",
        "from sparrow.base.ids import Epoch\nnew = Epoch(row[0])",
    ),
    (guards.stores_count_nothing, "store/sqlite.py", "new = row.epoch + 1"),
    (guards.stores_count_nothing, "store/memory.py", "new = 1 + endpoint_version"),
    (guards.only_the_publisher_puts, "master/app.py", "store.put_lines([line])"),
    (guards.only_the_publisher_puts, "authority/loop.py", "put = self._store.put_lines"),
    (
        guards.only_the_publisher_puts,
        "store/x.py",
        "class S:\n    def save(self, line):\n        self.inner.put_lines([line])",
    ),
    # G5: the edges.
    (
        guards.edges_know_no_minting,
        "frontends/iscsi/login.py",
        "from sparrow.authority.types import Line",
    ),
    (
        guards.edges_know_no_minting,
        "frontends/scsi/cold.py",
        "from sparrow.authority import types",
    ),
    (
        guards.edges_know_no_minting,
        "lifecycle/plans/replacement.py",
        "from sparrow.authority.publisher import Publisher",
    ),
    (
        guards.edges_know_no_minting,
        "lifecycle/x.py",
        "from sparrow.authority.adapter import PeerAdapter",
    ),
    (guards.edges_know_no_minting, "cli/volume.py", "import sparrow.authority.mint"),
    (guards.edges_know_no_minting, "lifecycle/spec.py", "class Spec:\n    epoch: int = 0"),
    (guards.edges_know_no_minting, "lifecycle/spec.py", "class Spec:\n    lineage: object"),
    # G6: the engine.
    (guards.engine_knows_no_outside, "authority/engine.py", "import time"),
    (
        guards.engine_knows_no_outside,
        "authority/engine.py",
        "from sparrow.ports.clock import Clock",
    ),
    (
        guards.engine_knows_no_outside,
        "authority/engine_types.py",
        "from sparrow.store.memory import MemoryStore",
    ),
    (guards.engine_knows_no_outside, "authority/engine.py", "from random import random"),
    (guards.engine_knows_no_outside, "authority/engine.py", "from sparrow.authority import loop"),
    (
        guards.engine_knows_no_outside,
        "authority/engine_types.py",
        "class EngineState:\n    socket: object = None",
    ),
    # G7: what is made for tests.
    (guards.twins_stay_with_tests, "master/app.py", "from tests.support import authority"),
    (guards.twins_stay_with_tests, "master/app.py", "from sparrow.store.memory import MemoryStore"),
    (guards.twins_stay_with_tests, "node/app.py", "from sparrow.dataplane import model"),
    (
        guards.twins_stay_with_tests,
        "node/app.py",
        "from sparrow.dataplane.model.log import ModelLog",
    ),
    (
        guards.twins_stay_with_tests,
        "dataplane/native/plane.py",
        "import sparrow._native.bench_probe",
    ),
    (guards.twins_stay_with_tests, "cli/main.py", "def f():\n    import pytest"),
]


@pytest.mark.parametrize(("guard", "place", "text"), FORBIDDEN)
def test_forbidden_pattern_is_caught(guard: Guard, place: str, text: str) -> None:
    assert guard(Module(place, text)) != []


ALLOWED = [
    (guards.lines_are_made_in_authority, "authority/mint.py", TYPES + "Line(volume_id='v')"),
    (guards.lines_are_made_in_authority, "rpc/codec.py", TYPES + "KINDS = {'line': Line}"),
    (
        guards.lines_are_made_in_authority,
        "node/x.py",
        TYPES + "def f(line: Line | None) -> Line: ...",
    ),
    (guards.lines_are_made_in_authority, "node/x.py", TYPES + "lines: dict[str, Line] = {}"),
    (guards.lines_are_made_in_authority, "node/x.py", TYPES + "ok = isinstance(x, Line)"),
    (
        guards.lines_are_made_in_authority,
        "node/x.py",
        TYPES + "match x:\n    case Line(primary=p): ...",
    ),
    (guards.lines_are_made_in_authority, "node/x.py", "class Line: ...\nline = Line()"),
    (guards.lines_are_made_in_authority, "node/x.py", RETYPES + "replace(line, pending=())"),
    (
        guards.lines_are_made_in_authority,
        "rpc/client.py",
        "from sparrow.rpc.gen import sparrow_pb2 as pb\npb.Line()",
    ),
    (guards.asks_are_made_where_decisions_are, "authority/decide.py", TYPES + "Ask()"),
    (guards.stores_count_nothing, "store/rows.py", "columns = (line.epoch, line.write_seq + 1)"),
    (
        guards.only_the_publisher_puts,
        "sim/x.py",
        "class S:\n    def put_lines(self, lines):\n        self.inner.put_lines(lines)",
    ),
    (
        guards.engine_knows_no_outside,
        "authority/engine.py",
        "from sparrow.authority import engine_types as t\nfrom sparrow.base.ids import Lsn",
    ),
    (guards.twins_stay_with_tests, "sim/x.py", "from sparrow.store.memory import MemoryStore"),
]


@pytest.mark.parametrize(("guard", "place", "text"), ALLOWED)
def test_what_is_allowed_is_not_caught(guard: Guard, place: str, text: str) -> None:
    assert guard(Module(place, text)) == []


# ------------------------------------------------------------------------------------------------ G8: the wire

#: Names of fields that carry authority.
AUTHORITY_FIELDS = {"epoch", "endpoint_version", "lineage", "line", "term", "promised_epoch"}
#: What a client may say about authority all the same, by request and path, and what it is.
EVIDENCE_ON_THE_WIRE = {
    # A node's report of what it does: evidence, never authority.
    ("Heartbeat", "slots.lineage"),
    ("Heartbeat", "slots.term"),
    ("Heartbeat", "slots.last_term"),
    # The line an ask was decided against: compared with, never minted.
    ("Ask", "basis"),
}
CLIENT_SERVICES = ("NodeControl", "VolumeService", "NodeService", "AuthorityService")


def carried(message: Descriptor, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Dotted paths of the fields of a message that carry authority, nested messages included."""
    for field in message.fields:
        here = (*path, field.name)
        kind = field.message_type
        if field.name in AUTHORITY_FIELDS or (kind and kind.name in {"Lineage", "Line", "Term"}):
            yield ".".join(here)
        elif kind is not None and kind.name not in path:
            yield from carried(kind, here)


def requests() -> list[tuple[str, Descriptor]]:
    services = pb.DESCRIPTOR.services_by_name
    return [
        (method.name, method.input_type)
        for name in CLIENT_SERVICES
        for method in services[name].methods
    ]


@pytest.mark.parametrize(
    ("method", "message"), requests(), ids=lambda one: getattr(one, "name", one)
)
def test_clients_cannot_say_what_authority_is(method: str, message: Descriptor) -> None:
    found = {(method, path) for path in carried(message)}
    assert found <= EVIDENCE_ON_THE_WIRE


def test_every_service_but_that_between_nodes_is_looked_at() -> None:
    """Nodes show each other the minted line; that is its delivery, not an input to it."""
    assert set(pb.DESCRIPTOR.services_by_name) == {*CLIENT_SERVICES, "NodePeer"}
    assert ("Ask", "basis") in {("Ask", path) for path in carried(pb.AskRequest.DESCRIPTOR)}


@pytest.mark.parametrize("message", [pb.FenceRequest, pb.AssignmentFact, pb.Line])
def test_authority_in_a_message_is_found(message: type) -> None:
    assert list(carried(message.DESCRIPTOR))  # type: ignore[attr-defined]
