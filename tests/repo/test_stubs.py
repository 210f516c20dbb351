"""The .pyi beside a native module says what the built module has."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "src/_native"
#: What Cython adds to every module and class by itself.
NOISE = re.compile(
    r"is a disjoint base|__(?:reduce|setstate)_cython__|\.__(?:test|pyx_\w+)__? |^$|^Found \d|^Success"
)


def stubbed_modules() -> list[str]:
    found = [path for path in sorted(NATIVE.rglob("*.pyi")) if path.with_suffix(".pyx").exists()]
    return [
        ".".join(("sparrow", "_native", *path.relative_to(NATIVE).with_suffix("").parts))
        for path in found
    ]


def differences(modules: list[str], *, cwd: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-m", "mypy.stubtest", "--concise", *modules],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = (done.stdout + done.stderr).splitlines()
    assert lines or done.returncode == 0, "stubtest failed without a word"
    return [line for line in lines if not NOISE.search(line)]


@pytest.mark.timeout(300)
def test_stubs_agree_with_the_built_modules() -> None:
    modules = stubbed_modules()
    assert modules, "no native module has a .pyi"
    assert differences(modules, cwd=ROOT) == []


def test_a_stub_that_lies_is_found(tmp_path: Path) -> None:
    (tmp_path / "liar.py").write_text("def real(size): return size\n")
    (tmp_path / "liar.pyi").write_text(
        "def real(length: int) -> int: ...\ndef gone() -> None: ...\n"
    )
    (tmp_path / "mypy.ini").write_text("[mypy]\nmypy_path = .\n")
    found = "\n".join(differences(["liar"], cwd=tmp_path))
    assert "liar.gone" in found
    assert "liar.real" in found
