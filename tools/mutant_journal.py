"""What runs of planted faults have found, kept below build/ so that the next run goes on where one was stopped.

A line per finding, appended and never changed, so that several runs may write at once and one that is killed loses
what was under way and nothing else. A finding belongs to a fingerprint of all that decides it: the sources, the entry,
and the files that its tests come from. When any of them changes it is found anew; other tests leave it alone.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final

#: Below the root: what every finding depends on.
SOURCES: Final = ("src", "pyproject.toml", "setup.py")
#: Files that runs write, or that are made from the sources.
MADE: Final = frozenset({".so", ".pyc"})
IMPORT: Final = re.compile(
    r"^\s*(?:from\s+(tests[\w.]*)\s+)?import\s+(\([^)]*\)|[^\n#]*)", re.MULTILINE
)


class Fingerprints:
    """Of the tree below ``root`` as it is when they are first asked for."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._sources = cache(self._of_sources)
        self._file = cache(self._of_file)
        self._imported = cache(self._imports_of)

    def of(self, tests: Iterable[str], *words: str) -> str:
        """Of the sources, the files these tests come from with what they import, and ``words``."""
        files: set[Path] = set()
        for test in tests:
            files |= self._reached(self._root / test.partition("::")[0])
        parts = [self._sources(), *words, *sorted(tests)]
        parts += [f"{path.relative_to(self._root)} {self._file(path)}" for path in sorted(files)]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def _of_sources(self) -> str:
        found = hashlib.sha256()
        for name in SOURCES:
            top = self._root / name
            for path in sorted(top.rglob("*")) if top.is_dir() else [top]:
                if path.is_file() and path.suffix not in MADE:
                    found.update(f"{path.relative_to(self._root)} {self._file(path)}\n".encode())
        return found.hexdigest()

    def _of_file(self, path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    def _reached(self, file: Path) -> set[Path]:
        """A test file, what lies beside it and is no code, and all of the tests it imports, directly or not."""
        reached: set[Path] = set()
        folders = [folder for folder in file.parents if folder.is_relative_to(self._root)]
        front = {file, *(folder / "conftest.py" for folder in folders)}
        front |= {path for path in file.parent.glob("*") if path.suffix not in {".py", ""}}
        while front:
            reached |= front
            front = {found for path in front for found in self._imported(path)} - reached
        return reached

    def _imports_of(self, path: Path) -> list[Path]:
        if path.suffix != ".py" or not path.is_file():
            return []
        found = []
        for package, names in IMPORT.findall(path.read_text()):
            words = [part.split()[0] for part in names.strip("()").split(",") if part.split()]
            dotted = [f"{package}.{word}" for word in words] + [package] if package else words
            for module in dotted:
                if module.partition(".")[0] == "tests":
                    base = self._root.joinpath(*module.split("."))
                    found += [base.with_suffix(".py"), base / "__init__.py"]
        return [path for path in found if path.is_file()]


class Journal:
    """The findings in one file, by fingerprint; what older runs have found is left out when it is ``fresh``."""

    def __init__(self, path: Path, *, fresh: bool = False) -> None:
        self._path = path
        self._found: dict[str, dict[str, object]] = {}
        if path.exists() and not fresh:
            for line in path.read_text().splitlines():
                try:
                    row = json.loads(line)
                except ValueError:
                    continue  # a run was killed while it wrote this
                self._found[row.pop("key")] = row

    def get(self, key: str) -> dict[str, object] | None:
        return self._found.get(key)

    def add(self, key: str, **finding: object) -> None:
        """Remember a finding, here and for later runs. ``finding`` is what JSON can hold."""
        self._found[key] = finding
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps({"key": key, **finding}) + "\n")
