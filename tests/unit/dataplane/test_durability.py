"""Flushes are shared only where one flush reaches every log: a cache without FUA, a file system that flushes."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrow.dataplane.durability import flushed_as_a_whole, pays_for_flushes

MOUNTS = [
    "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw",
    "30 22 0:26 / /dev/shm rw,nosuid shared:4 - tmpfs tmpfs rw",
    "41 22 254:16 / /pool rw,noatime shared:9 master:2 - xfs /dev/vdb rw",
    "42 22 254:32 / /journal rw shared:10 - ext4 /dev/vdc rw,data=journal",
    "43 22 254:48 / /ordered rw shared:11 - ext4 /dev/vdd rw,data=ordered",
]


@pytest.mark.parametrize(
    ("device", "whole"),
    [
        ("254:1", True),
        ("254:16", True),
        ("254:48", True),
        ("254:32", False),
        ("0:26", False),
        ("254:2", False),
    ],
)
def test_one_flush_is_for_all_by_file_system_and_its_options(device: str, whole: bool) -> None:
    assert flushed_as_a_whole(device, MOUNTS) is whole


def test_lines_that_are_cut_short_are_passed_over() -> None:
    assert not flushed_as_a_whole(
        "254:1", ["", "22 1 254:1", "22 1 254:1 / / rw - ", "22 1 254:1 / / rw - ext4"]
    )


def queue(folder: Path, *, cache: str, fua: str) -> None:
    (folder / "queue").mkdir(parents=True)
    (folder / "queue" / "write_cache").write_text(f"{cache}\n")
    (folder / "queue" / "fua").write_text(f"{fua}\n")


@pytest.mark.parametrize(
    ("cache", "fua", "pays"),
    [
        ("write back", "0", True),
        ("write back", "1", False),
        ("write through", "0", False),
        ("something new", "0", False),
    ],
)
def test_only_a_volatile_cache_without_fua_pays(
    tmp_path: Path, cache: str, fua: str, pays: bool
) -> None:
    queue(tmp_path, cache=cache, fua=fua)
    assert pays_for_flushes(tmp_path) is pays


def test_a_partition_asks_its_disk(tmp_path: Path) -> None:
    queue(tmp_path, cache="write back", fua="0")
    partition = tmp_path / "vda1"
    partition.mkdir()
    assert pays_for_flushes(partition)


def test_a_device_that_does_not_say_is_not_built_on(tmp_path: Path) -> None:
    assert not pays_for_flushes(tmp_path / "nothing")
