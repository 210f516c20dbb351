"""What a reviewer would otherwise say again and again."""

from __future__ import annotations

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked(*patterns: str) -> list[Path]:
    """Files of the project: what git knows or would add."""
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("needs a git checkout")
    paths = [ROOT / name for name in done.stdout.split("\0") if name]
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_every_dependency_says_why_it_is_here() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    project = tomllib.loads(text)["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    for requirement in wanted:
        assert re.search(rf'^ *"{re.escape(requirement)}", +# \w.{{8,}}$', text, re.MULTILINE), (
            requirement
        )


def test_every_lint_rule_left_out_says_why() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    for rule in tomllib.loads(text)["tool"]["ruff"]["lint"]["ignore"]:
        assert re.search(rf'^ *"{rule}", +# \w.{{5,}}$', text, re.MULTILINE), rule


def test_every_module_opens_with_what_it_is() -> None:
    for path in tracked("src/*.py", "tools/*.py", "bench/*.py", "tests/*.py", "setup.py"):
        if "gen" in path.parts:
            continue
        assert ast.get_docstring(ast.parse(path.read_text())), (
            f"{path.relative_to(ROOT)} has no docstring"
        )


def test_every_cython_module_opens_with_what_it_is() -> None:
    for path in tracked("src/_native/*.pyx"):
        text = path.read_text()
        assert re.match(r'(#[^\n]*\n|\s)*("""|#)', text), (
            f"{path.relative_to(ROOT)} has no docstring or comment on top"
        )


def test_every_type_ignore_carries_its_code() -> None:
    for path in tracked("*.py", "*.pyi"):
        if "gen" in path.parts:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not re.search(r"#\s*type:\s*ignore(?!\[)", line), (
                f"{path.relative_to(ROOT)}:{number}"
            )


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of one developer's machine, nothing outside the repository, no word on who typed it."""
    machine = re.compile(r"/(?:home|Users)/\w|/roo[t]/|/wor[k]/|\.\./share[d]\b")
    authors = re.compile(
        r"sub-?agen[t]|language mode[l]\b|(?:this|developer|coding) sessio[n]|Claud[e]",
        re.IGNORECASE,
    )
    for path in tracked():
        try:
            lines = path.read_text().splitlines()
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(lines, 1):
            for pattern in (machine, authors):
                found = pattern.search(line)
                assert not found, f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"


def test_nothing_unfinished_is_committed() -> None:
    marks = re.compile(r"\b(?:TOD[O]|FIXM[E]|XX[X]|HAC[K])\b|raise NotImplementedErro[r]")
    for path in tracked("*.py", "*.pyx", "*.pxd", "*.h", "*.md", "*.sh", "Makefile"):
        if "gen" in path.parts:
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            assert not marks.search(line), (
                f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
            )
