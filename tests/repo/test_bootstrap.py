"""Set-up on a machine that lacks something and may not install it: one line that names it, nothing half-made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: Of a bare Debian: neither compiler, apt-get nor sudo.
PROGRAMS = ("sh", "dirname", "find", "head", "cat", "mkdir", "touch", "flock", "rm", "id", "env")


def bare_machine(folder: Path, *, python: bool) -> tuple[Path, dict[str, str]]:
    """A copy of the scripts and an environment whose PATH has little on it."""
    checkout, programs = folder / "checkout", folder / "bin"
    shutil.copytree(
        ROOT / "tools", checkout / "tools", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy2(ROOT / "pyproject.toml", checkout)
    shutil.copy2(ROOT / "setup.py", checkout)
    (checkout / "src/_native").mkdir(parents=True)
    programs.mkdir()
    for name in PROGRAMS:
        found = shutil.which(name)
        assert found, name
        (programs / name).symlink_to(found)
    if python:
        (programs / "python3").symlink_to(Path(sys.executable).resolve())
    environment = {name: value for name, value in os.environ.items() if name != "CC"}
    return checkout, {**environment, "PATH": str(programs)}


def run(
    script: Path, *arguments: str, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [script, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def test_a_missing_compiler_is_named_in_one_line_with_the_command_to_run(tmp_path: Path) -> None:
    checkout, environment = bare_machine(tmp_path, python=True)
    done = run(checkout / "tools/bootstrap.sh", "dev", environment=environment)
    assert done.returncode == 1
    lines = (done.stdout + done.stderr).splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("setup: missing: gcc libc6-dev liburing-dev")
    assert "sudo apt-get install -y gcc libc6-dev liburing-dev" in lines[0]
    assert not (checkout / ".venv").exists()


def test_missing_test_programs_are_named_when_they_must_be_there(tmp_path: Path) -> None:
    checkout, environment = bare_machine(tmp_path, python=True)
    done = run(checkout / "tools/test_deps.sh", "must", environment=environment)
    # /usr/sbin is searched too, so only what lives in /usr/bin is sure to be missing.
    assert done.returncode == 1
    missing = done.stderr.rsplit("missing: ", 1)[1].split(" - ")[0].split()
    assert {"qemu-utils", "libiscsi-bin", "fio", "qemu-block-extra"} <= set(missing)
    tried = run(checkout / "tools/test_deps.sh", "try", environment=environment)
    assert tried.returncode == 0
