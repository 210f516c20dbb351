"""Which pytest node ids exist: found by reading the files, so that lists of them can be checked without a run."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def exists(node_id: str) -> bool:
    """Whether ``path::test`` or ``path::Class::test`` names a test; parameters in brackets are passed over."""
    path, _, name = node_id.partition("[")[0].partition("::")
    return bool(name) and name in tests_in(path)


@cache
def tests_in(path: str) -> frozenset[str]:
    """The tests of one file, as pytest names them; empty for a file that does not exist."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    return frozenset(_tests(ast.parse(file.read_text()).body, ""))


def _tests(body: list[ast.stmt], prefix: str) -> list[str]:
    found: list[str] = []
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if node.name.startswith("test"):
                found.append(prefix + node.name)
        elif isinstance(node, ast.ClassDef) and node.name.startswith("Test"):
            found.extend(_tests(node.body, f"{prefix}{node.name}::"))
    return found
