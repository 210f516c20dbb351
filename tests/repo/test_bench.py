"""What measurements conclude from their figures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bench.ceph_cluster import GROUPS, MEDIA, configuration, groups_are_clean
from bench.client.run import Outcome
from bench.gate import ALLOWED, compare
from bench.gate_cases import CASES, INSIDE, WITHOUT
from bench.goals import CEPH, GOALS, judge
from bench.report import Cell, Run
from bench.shape import written_of
from bench.table import COLUMNS, ROWS


def cell(row: str, column: str, *, iops: float, cpu_us: float = 1.0, p50_us: float = 100.0) -> Cell:
    outcome = Outcome(iops=iops, p50_us=p50_us, p99_us=p50_us, ios_all=1, client_load=0.1)
    return Cell(row=row, column=column, runs=(Run(outcome=outcome, cpu_us=cpu_us),))


def test_a_part_that_takes_a_tenth_more_instructions_fails_the_gate() -> None:
    kept = {"a": 1000.0, "b": 1000.0}
    assert compare({"a": 1000.0 * ALLOWED, "b": 900.0}, kept)[1] == 0
    lines, worse = compare({"a": 1000.0 * ALLOWED + 1, "b": 1000.0}, kept)
    assert worse == 1
    assert lines[0].startswith("WORSE a:")


def test_a_part_without_a_base_line_fails_the_gate() -> None:
    assert compare({"new": 1.0}, {})[1] == 1


def test_the_gate_counts_inside_cases_it_has() -> None:
    assert WITHOUT.keys() <= INSIDE.keys() <= CASES.keys()


def test_every_goal_is_about_rows_and_columns_of_the_table() -> None:
    for goal in GOALS:
        assert goal.row in ROWS
        assert not goal.other_row or goal.other_row in ROWS
        assert {goal.ours, *goal.others} <= {*COLUMNS, CEPH}


def test_a_goal_is_held_against_the_fastest_peer() -> None:
    row = "4 KiB random read, depth 32"
    peers = [cell(row, "tgt", iops=10), cell(row, "nbdkit", iops=100, cpu_us=10)]
    lines = judge([*peers, cell(row, "sparrow RF 1 NBD", iops=124, cpu_us=7.0)])
    assert lines[0].startswith("- MISSED")
    assert "1.24 x nbdkit" in lines[0]
    assert lines[1].startswith("- reached")
    assert lines[-1] == "goals: 2 reached: 1"


def test_a_table_without_our_columns_has_no_goals() -> None:
    row = "4 KiB random read, depth 32"
    assert judge([cell(row, "tgt", iops=10)]) == ["goals: 0 reached: 0"]


def test_ceph_is_judged_where_it_is_in_the_table_and_nowhere_else() -> None:
    row = "4 KiB random durable write, depth 32"
    ours = cell(row, "sparrow RF 3 NBD", iops=8000, cpu_us=40.0)
    assert judge([ours]) == ["goals: 0 reached: 0"]
    lines = judge([ours, cell(row, CEPH, iops=1000, cpu_us=390.0)])
    assert [line[:9] for line in lines] == ["- reached", "- MISSED ", "goals: 2 "]
    assert f"8.00 x {CEPH}" in lines[0]


def test_a_pool_is_ready_when_every_group_is_clean() -> None:
    clean = {"state_name": "active+clean", "count": GROUPS}
    assert groups_are_clean({"num_pgs": GROUPS, "pgs_by_state": [clean]})
    # The manager has not told of all of them yet.
    assert not groups_are_clean({"num_pgs": 0, "pgs_by_state": []})
    assert not groups_are_clean(
        {"num_pgs": GROUPS - 1, "pgs_by_state": [{**clean, "count": GROUPS - 1}]}
    )
    late = {"state_name": "active+undersized", "count": 1}
    assert not groups_are_clean(
        {"num_pgs": GROUPS, "pgs_by_state": [{**clean, "count": GROUPS - 1}, late]}
    )


@pytest.mark.parametrize("media", sorted(MEDIA))
def test_a_ceph_cluster_stays_in_its_folder_and_on_loopback(media: str) -> None:
    folder = Path("/var/tmp/x")
    text = configuration(folder, "fsid", "v2:127.0.0.1:1", media)
    paths = re.findall(r"= (/\S*)", text)
    assert len(paths) >= 8
    assert all(Path(path).is_relative_to(folder) for path in paths)
    hosts = re.findall(r"\d+\.\d+\.\d+\.\d+", text)
    assert set(hosts) == {"127.0.0.1"}


def test_what_reached_the_disk_is_the_seventh_counter_in_sectors() -> None:
    # 24 sectors written in 3 requests, of Documentation/block/stat.rst's seventeen fields.
    assert written_of("5 0 40 1 3 0 24 2 0 3 3 0 0 0 0 1 1\n") == 24 * 512
