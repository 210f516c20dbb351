"""How much memory a process may use."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparrow.runtime.memory import usable_bytes

GIB = 1 << 30


def ask(place: Path, groups: str, bounds: dict[str, str], machine: int = 64 * GIB) -> int:
    """With these groups of the process, and these files below where groups are mounted."""
    (place / "cgroup").write_text(groups)
    for name, text in bounds.items():
        path = place / "mount" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n")
    return usable_bytes(groups=place / "cgroup", mount=place / "mount", machine=machine)


@pytest.mark.parametrize(
    ("groups", "bounds", "expected"),
    [
        ("0::/\n", {}, 64),
        ("0::/pod/box\n", {"pod/box/memory.max": f"{2 * GIB}"}, 2),
        ("0::/pod/box\n", {"pod/box/memory.max": "max", "pod/memory.max": f"{3 * GIB}"}, 3),
        ("0::/unseen/path\n", {"memory.max": f"{4 * GIB}"}, 4),
        ("0::/pod\n", {"pod/memory.max": f"{128 * GIB}"}, 64),
        (
            "9:name=systemd:/\n4:cpu,memory:/box\n0::/\n",
            {
                "memory/box/memory.limit_in_bytes": f"{5 * GIB}",
                "memory/memory.limit_in_bytes": "9223372036854771712",
            },
            5,
        ),
        ("4:cpuset:/box\n", {"memory/box/memory.limit_in_bytes": f"{GIB}"}, 64),
        ("nonsense\n", {"memory.max": "nonsense"}, 64),
    ],
)
def test_the_smallest_bound_counts(
    tmp_path: Path, groups: str, bounds: dict[str, str], expected: int
) -> None:
    assert ask(tmp_path, groups, bounds) == expected * GIB


def test_without_groups_it_is_the_machines(tmp_path: Path) -> None:
    assert usable_bytes(groups=tmp_path / "none", mount=tmp_path, machine=7) == 7


def test_of_this_machine_it_is_something() -> None:
    assert 1 << 26 < usable_bytes() <= 1 << 48
