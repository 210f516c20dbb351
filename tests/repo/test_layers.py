"""Who may import whom, for Python by import-linter and for Cython by its cimports."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PURE_ROOMS = {"authority", "base", "formats", "frontends", "lifecycle"}


def test_every_contract_is_kept() -> None:
    linter = Path(sys.executable).parent / "lint-imports"
    done = subprocess.run(
        [linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_pure_room_is_under_the_purity_contract() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    listed = {
        name.removeprefix("sparrow.")
        for c in contracts
        if c["type"] == "forbidden"
        for name in c["source_modules"]
    }
    present = {path.parent.name for path in (ROOT / "src/sparrow").glob("*/__init__.py")}
    assert listed == PURE_ROOMS & present


def test_the_native_core_imports_nothing_of_sparrow_but_itself() -> None:
    pattern = re.compile(r"^\s*(?:from|c?import)\s+(sparrow(?:\.\w+)*)", re.MULTILINE)
    for path in sorted((ROOT / "src/_native").rglob("*.p[yx]*")):
        for name in (
            pattern.findall(path.read_text()) if path.suffix in {".pyx", ".pxd", ".py"} else ()
        ):
            assert name.startswith("sparrow._native"), f"{path.relative_to(ROOT)} imports {name}"
