"""Boundary guards over the source tree: who may make authority, who may ask for it, who may not even know of it.

Each guard takes one module's text and its place below src/sparrow and gives what breaks the rule, as sentences. They
read the syntax tree, so an alias, a look-up by name or a copy with changed fields is found as well as a plain call.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src/sparrow"

#: Fields that only a mint sets.
MINTED_FIELDS = frozenset({"lineage", "epoch", "endpoint_version"})
#: Where lines come into being, each with its reason.
LINE_MAKERS = {
    "authority/mint.py": "the mint",
    "authority/invariants.py": "the first lineage of all",
    "authority/recovery.py": "lines continued from what nodes kept",
    "authority/record.py": "the decoder of the durable record",
    "rpc/codec.py": "the decoder of the wire",
}
#: Who may ask, each with its reason.
ASKERS = {
    "authority/decide.py": "the controller's decisions",
    "authority/stale.py": "an operator's word about a volume whose last writes are lost",
    "master/control_service.py": "what a node asked, taken off the wire",
    "lifecycle/plans/": "steps of operator plans, judged by the publisher like any other",
}
#: What turns asks into lines, and what hands lines out.
MINTING = frozenset({"publisher", "mint", "loop", "delivery", "subscription", "recovery"})
#: Parts of a node's side of authority.
ENGINE = frozenset({"engine", "engine_types", "adapter"})
#: Modules of the authority that work on evidence and must not reach the mint.
EVIDENCE = ("observation", "builder", "evidence", "decide", "convergence", "controller", "status")
#: Made for tests and the simulator.
TWINS = frozenset(
    {
        "sparrow.store.memory",
        "sparrow.dataplane.model",
        "sparrow._native.front.testbed",
        "sparrow._native.bench_probe",
    }
)
#: What the engine may import: nothing that knows of disks, sockets or time.
ENGINE_IMPORTS = frozenset(
    {
        "__future__",
        "collections.abc",
        "dataclasses",
        "enum",
        "typing",
        "sparrow.authority.engine_types",
        "sparrow.base.ids",
    }
)

Guard: TypeAlias = Callable[["Module"], list[str]]


@dataclass(frozen=True)
class Module:
    """One module: ``place`` is its path below src/sparrow, with slashes."""

    place: str
    text: str

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def room(self) -> str:
        return self.place.partition("/")[0].removesuffix(".py")

    @property
    def name(self) -> str:
        return self.place.rpartition("/")[2].removesuffix(".py")

    @cached_property
    def imports(self) -> dict[str, str]:
        """Local name to dotted origin, aliases by assignment included."""
        names: dict[str, str] = {}
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                for one in node.names:
                    names[one.asname or one.name.partition(".")[0]] = (
                        one.name if one.asname else one.name.partition(".")[0]
                    )
            elif isinstance(node, ast.ImportFrom):
                for one in node.names:
                    names[one.asname or one.name] = f"{_origin(node)}.{one.name}"
        for _ in range(5):  # aliases of aliases; five deep is deep enough
            for node in ast.walk(self.tree):
                if isinstance(node, ast.Assign | ast.NamedExpr | ast.AnnAssign) and node.value:
                    origin = _resolve(node.value, names)
                    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                    for target in targets:
                        if origin and isinstance(target, ast.Name):
                            names.setdefault(target.id, origin)
        return names

    @cached_property
    def imported(self) -> frozenset[str]:
        """Dotted names of every module imported, and of every name imported from one."""
        found: set[str] = set()
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                found.update(one.name for one in node.names)
            elif isinstance(node, ast.ImportFrom):
                found.add(_origin(node))
                found.update(f"{_origin(node)}.{one.name}" for one in node.names)
        return frozenset(found)

    def origin(self, node: ast.expr) -> str:
        """Where a name or attribute comes from, dotted; empty if from here."""
        return _resolve(node, self.imports)


def modules() -> Iterator[Module]:
    """Every module of the product but generated ones."""
    for path in sorted(SOURCES.rglob("*.py")):
        place = path.relative_to(SOURCES).as_posix()
        if not place.startswith(("rpc/gen/", "_native/")):
            yield Module(place, path.read_text())


# ------------------------------------------------------------------------------------------------ guards


def lines_are_made_in_authority(module: Module) -> list[str]:
    """G1: nobody else makes a line, or changes the epoch of one."""
    if module.place in LINE_MAKERS or module.place == "authority/types.py":
        return []
    found = _uses(module, {"Line", "Lineage"})
    if module.room != "authority":
        found += _minted_fields(module)
    return found + _stars(module)


def asks_are_made_where_decisions_are(module: Module) -> list[str]:
    """G2: evidence is not turned into asks on the way."""
    if module.place.startswith(tuple(ASKERS)) or module.place == "authority/types.py":
        return []
    return _uses(module, {"Ask"})


def evidence_knows_no_publisher(module: Module) -> list[str]:
    """G2: what observes and decides reads lines through values it is given."""
    if module.room != "authority" or module.name not in EVIDENCE:
        return []
    return _imports_of(module, {"publisher", "mint", "loop", "delivery"})


def support_is_judged_from_facts(module: Module) -> list[str]:
    """G3: the builder's way in takes no snapshot, and what observes knows of none: the pipeline goes one way."""
    found: list[str] = []
    if module.place == "authority/observation.py":
        found += _imports_of(module, {"builder", "controller", "decide", "evidence", "status"})
    if module.place == "authority/builder.py":
        found += _imports_of(module, {"controller", "decide", "evidence", "status"})
        for node in module.tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
                texts = [ast.unparse(one.annotation) for one in arguments if one.annotation]
                found += [
                    f"{node.name} takes a {text}"
                    for text in texts
                    if "Snapshot" in text or "Outcome" in text
                ]
    return found


def stores_count_nothing(module: Module) -> list[str]:
    """G4: the store keeps epochs as they come and never works one out."""
    if module.room != "store":
        return []
    found = _uses(module, {"Line", "Lineage", "Epoch", "EndpointVersion"})
    for node in ast.walk(module.tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
            words = {_word(side) for side in (node.left, node.right)}
            if words & MINTED_FIELDS:
                found.append(f"line {node.lineno} counts: {ast.unparse(node)}")
    return found


def only_the_publisher_puts(module: Module) -> list[str]:
    """G4: lines become durable through the publisher alone. A store around a store passes its own call on."""
    if module.place == "authority/publisher.py":
        return []
    puts = {"put_lines", "put_recovered"}
    passed_on = {
        id(inner.func)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.FunctionDef) and node.name in puts
        for inner in ast.walk(node)
        if isinstance(inner, ast.Call) and _word(inner.func) == node.name
    }
    return [
        f"line {node.lineno} uses {node.attr}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and node.attr in puts and id(node) not in passed_on
    ]


def edges_know_no_minting(module: Module) -> list[str]:
    """G5: frontends know nothing of authority; lifecycle and the command line nothing of minting or engines."""
    if module.room == "frontends":
        return [
            f"imports {name}"
            for name in sorted(module.imported)
            if name.startswith("sparrow.authority")
        ]
    if module.room in {"lifecycle", "cli", "csi", "gateway"}:
        found = _imports_of(module, MINTING | ENGINE)
        if module.room == "lifecycle":
            found += _fields(module, MINTED_FIELDS)
        return found
    return []


def engine_knows_no_outside(module: Module) -> list[str]:
    """G6: the engine and its values import no storage, no transport, no clock; its state is plain values."""
    if module.place not in {"authority/engine.py", "authority/engine_types.py"}:
        return []
    found = [
        f"imports {name}"
        for name in sorted(module.imported - ENGINE_IMPORTS - {"sparrow.authority"})
        if name.rpartition(".")[0] not in ENGINE_IMPORTS
    ]
    return found + _fields(module, {"fd", "socket", "connection", "link", "writer", "reader"})


def twins_stay_with_tests(module: Module) -> list[str]:
    """G7: nothing that is served is made of what tests and the simulator use."""
    if module.room == "sim":
        return []
    found = []
    for name in sorted(module.imported):
        if name.partition(".")[0] in {"tests", "pytest", "hypothesis"}:
            found.append(f"imports {name}")
        if _is_twin(name) and not _is_twin(f"sparrow.{module.place[:-3].replace('/', '.')}"):
            found.append(f"imports {name}")
    return found


def _is_twin(name: str) -> bool:
    return any(name == twin or name.startswith(f"{twin}.") for twin in TWINS)


GUARDS: tuple[Guard, ...] = (
    lines_are_made_in_authority,
    asks_are_made_where_decisions_are,
    evidence_knows_no_publisher,
    support_is_judged_from_facts,
    stores_count_nothing,
    only_the_publisher_puts,
    edges_know_no_minting,
    engine_knows_no_outside,
    twins_stay_with_tests,
)


# ------------------------------------------------------------------------------------------------ helpers


def _origin(node: ast.ImportFrom) -> str:
    # Nothing here imports relatively; one that did would be found by the dot.
    return "." * node.level + (node.module or "")


def _resolve(node: ast.expr, names: dict[str, str]) -> str:
    if isinstance(node, ast.Name):
        return names.get(node.id, "")
    if isinstance(node, ast.Attribute):
        base = _resolve(node.value, names)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _of_authority(origin: str, kinds: set[str]) -> bool:
    """Whether a dotted name is one of these values, from wherever it was imported; messages are not."""
    known = origin.startswith(("sparrow.", ".")) and not origin.startswith("sparrow.rpc.gen")
    return known and origin.rpartition(".")[2] in kinds


def _uses(module: Module, kinds: set[str]) -> list[str]:
    """Every use of a class as a value: calls, aliases, handing it to somebody who calls it."""
    innocent = set(_type_expressions(module.tree))
    found: list[str] = []
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in innocent:
            origin = module.origin(node)
            if isinstance(node.ctx, ast.Load) and _of_authority(origin, kinds):
                found.append(f"line {node.lineno} uses {origin.rpartition('.')[2]} as a value")
        elif isinstance(node, ast.Call) and _word(node.func) in {"getattr", "attrgetter"}:
            texts = {one.value for one in node.args if isinstance(one, ast.Constant)}
            found += [f"line {node.lineno} looks {text} up" for text in sorted(texts & kinds)]
    return found


def _type_expressions(tree: ast.Module) -> Iterator[int]:
    """Nodes in which a class names a type and makes nothing."""
    roots: list[ast.AST | None] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            roots.append(node.returns)
        elif isinstance(node, ast.arg | ast.AnnAssign):
            roots.append(node.annotation)
            if isinstance(node, ast.AnnAssign) and _word(node.annotation) == "TypeAlias":
                roots.append(node.value)
        elif isinstance(node, ast.Call) and _word(node.func) in {"isinstance", "issubclass"}:
            roots.extend(node.args[1:])
        elif isinstance(node, ast.MatchClass):
            roots.append(node.cls)
        elif isinstance(node, ast.Subscript):
            roots.append(node.slice)
    for root in roots:
        if root is not None:
            yield from (id(node) for node in ast.walk(root))


def _minted_fields(module: Module) -> list[str]:
    """Copies and assignments that change what only a mint sets."""
    found = []
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        word = _word(node.func)
        changed = {one.arg for one in node.keywords if one.arg} & MINTED_FIELDS
        if word in {"replace", "_replace"} and changed:
            found.append(f"line {node.lineno} replaces {', '.join(sorted(changed))}")
        texts = {one.value for one in node.args if isinstance(one, ast.Constant)}
        if word in {"setattr", "__setattr__"} and texts & MINTED_FIELDS:
            found.append(f"line {node.lineno} sets {', '.join(sorted(texts & MINTED_FIELDS))}")
    return found


def _stars(module: Module) -> list[str]:
    return [f"imports everything of {name[:-2]}" for name in module.imported if name.endswith(".*")]


def _imports_of(module: Module, names: frozenset[str] | set[str]) -> list[str]:
    return [
        f"imports {name}"
        for name in sorted(module.imported)
        if name in {f"sparrow.authority.{one}" for one in names}
    ]


def _fields(module: Module, names: frozenset[str] | set[str]) -> list[str]:
    """Fields of classes that have one of these names."""
    return [
        f"{node.name}.{line.target.id} is a field"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef)
        for line in node.body
        if isinstance(line, ast.AnnAssign)
        and isinstance(line.target, ast.Name)
        and line.target.id in names
    ]


def _word(node: ast.expr | None) -> str:
    """The last part of a name."""
    if isinstance(node, ast.Name):
        return node.id
    return node.attr if isinstance(node, ast.Attribute) else ""
