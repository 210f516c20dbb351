"""The lists of planted faults still fit the code: every line is there once, every test that must notice exists."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.support.node_ids import exists
from tools.mutants import LISTS, BadList, Mutant, fault, load

AUTHORITY = load(LISTS / "authority.toml")
DATA = load(LISTS / "data.toml")

GOOD = """
[[mutant]]
name = "a"
file = "x.py"
old = "one = 1"
new = "one = 2"
tests = ["tests/x.py::test_x"]
"""


@pytest.mark.parametrize(
    "mutant", [*AUTHORITY, *DATA], ids=[mutant.name for mutant in [*AUTHORITY, *DATA]]
)
def test_mutant_can_be_planted_and_its_tests_exist(mutant: Mutant) -> None:
    assert fault(mutant) == ""
    for test in mutant.tests:
        assert exists(test), test


def test_every_part_of_the_authority_has_mutants() -> None:
    files = Counter(Path(mutant.file).stem for mutant in AUTHORITY)
    parts = "publisher mint sqlite rows builder controller convergence evidence decide engine adapter observation loop"
    assert set(parts.split()) <= set(files)
    assert len(AUTHORITY) >= 30


def test_every_part_of_the_data_path_has_mutants() -> None:
    files = Counter(Path(mutant.file).stem for mutant in DATA)
    parts = "commit gate terms receive ship grants log recovery superblock flusher dirty read sums block session"
    assert set(parts.split()) <= set(files)
    assert len(DATA) >= 40


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (('old = "one = 1"\n', ""), "missing"),
        (('name = "a"', 'name = "a"\ncolour = "b"'), "unknown"),
        (('["tests/x.py::test_x"]', "[]"), "names no test"),
        (('"one = 2"', '"one = 1"'), "changes nothing"),
        (('"one = 2"', '"""one = 2\ntwo = 2"""'), "more than one line"),
        (("[[mutant]]", "extra = 1\n[[mutant]]"), "extra"),
    ],
)
def test_list_that_cannot_be_meant_is_refused(
    change: tuple[str, str], text: str, tmp_path: Path
) -> None:
    path = tmp_path / "list.toml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(BadList, match=text):
        load(path)


def test_name_used_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    path.write_text(GOOD + GOOD)
    with pytest.raises(BadList, match="named twice: a"):
        load(path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("two = 2\n", "occurs 0 times"),
        ("one = 1\none = 1\n", "occurs 2 times"),
        ("one = 1\nif:\n", "does not compile"),
    ],
)
def test_line_that_is_not_there_once_is_told(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "x.py").write_text(text)
    (tmp_path / "list.toml").write_text(GOOD)
    (mutant,) = load(tmp_path / "list.toml")
    assert found in fault(mutant, tmp_path)
