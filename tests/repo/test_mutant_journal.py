"""What runs of planted faults found is kept as long as nothing that decides it has changed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tools.mutant_journal import Fingerprints, Journal
from tools.mutants import Interrupted, Mutant, Run, Runner, chosen

TREE = {
    "src/a.py": "one = 1\n",
    "src/a.so": "made",
    "pyproject.toml": "",
    "setup.py": "",
    "tests/conftest.py": "",
    "tests/support/bed.py": "from tests.support import deep\n",
    "tests/support/deep.py": "two = 2\n",
    "tests/unit/test_a.py": "from tests.support.bed import x\n\ndef test_a(): ...\n",
    "tests/unit/test_b.py": "def test_b(): ...\n",
    "tests/unit/seeds.txt": "1\n",
}
TEST = "tests/unit/test_a.py::test_a"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in TREE.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("changed", "counts"),
    [
        ("src/a.py", True),
        ("setup.py", True),
        ("tests/conftest.py", True),
        ("tests/unit/test_a.py", True),
        ("tests/support/bed.py", True),
        ("tests/support/deep.py", True),
        ("tests/unit/seeds.txt", True),
        ("src/a.so", False),
        ("tests/unit/test_b.py", False),
    ],
)
def test_a_finding_belongs_to_all_that_decides_it_and_to_nothing_else(
    tree: Path, changed: str, counts: bool
) -> None:
    before = Fingerprints(tree).of([TEST], "x.py", "old", "new")
    assert Fingerprints(tree).of([TEST], "x.py", "old", "new") == before
    assert Fingerprints(tree).of([TEST], "x.py", "old", "newer") != before
    (tree / changed).write_text("three = 3\n")
    assert (Fingerprints(tree).of([TEST], "x.py", "old", "new") != before) is counts


def test_findings_outlive_a_run_that_was_killed_while_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "found" / "data.jsonl"
    journal, beside = Journal(path), Journal(path)
    journal.add("one", killed=True)
    beside.add("two", killed=False)
    with path.open("a") as file:
        file.write('{"key": "three", "kil')
    again = Journal(path)
    assert again.get("one") == {"killed": True}
    assert again.get("two") == {"killed": False}
    assert again.get("three") is None
    assert Journal(path, fresh=True).get("one") is None


def mutant(name: str, file: str = "src/x.pyx") -> Mutant:
    return Mutant(name=name, file=file, old=name, new="", tests=("tests/x.py::test_x",))


def test_shards_are_parts_that_make_up_the_whole() -> None:
    every = [mutant(str(number)) for number in range(10)]
    parts = [chosen(every, only="", shard=f"{part}/3") for part in (1, 2, 3)]
    assert sorted(len(part) for part in parts) == [3, 3, 4]
    assert {one.name for part in parts for one in part} == {one.name for one in every}
    assert [one.name for one in chosen(every, only="7", shard="1/1")] == ["7"]


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "a/b", "1/0", "-1/3"])
def test_a_shard_that_cannot_be_is_refused(shard: str) -> None:
    with pytest.raises(ValueError, match="say K/N"):
        chosen([mutant("a")], only="", shard=shard)


def test_what_was_judged_is_not_judged_again(tmp_path: Path) -> None:
    path, listed = tmp_path / "data.jsonl", [mutant("a"), mutant("b")]
    run = Run(listed, Journal(path), as_is=True)
    assert (run.known, run.open) == ([], listed)
    Journal(path).add(run.key(listed[0]), killed=True, seconds=1.5)
    run = Run(listed, Journal(path), as_is=True)
    assert run.open == listed[1:]
    (known,) = run.known
    assert (known.mutant.name, known.killed, known.seconds) == ("a", True, 1.5)


def test_a_run_that_is_ended_ends_what_it_started_and_says_nothing(tmp_path: Path) -> None:
    """pytest that is interrupted ends as if a test had failed: that must not count as noticed."""
    runner, began = Runner(tmp_path), tmp_path / "began"
    sleeper = tmp_path / "sleeper.py"
    sleeper.write_text(f"import time\nopen({str(began)!r}, 'w').close()\ntime.sleep(60)\n")
    found: list[BaseException] = []

    def run() -> None:
        try:
            runner.python([str(sleeper)], {}, 60.0)
        except Interrupted as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not began.exists():
        thread.join(0.01)
    runner.end()
    thread.join(30)
    assert not thread.is_alive()
    assert len(found) == 1
    with pytest.raises(Interrupted):
        runner.python([str(sleeper)], {}, 60.0)
