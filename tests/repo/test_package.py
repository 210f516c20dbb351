"""What is handed out works without the checkout: source archive -> wheel -> import in an empty place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.repo.test_project import tracked

ROOT = Path(__file__).resolve().parents[2]

TRY = """
import sys
sys.path.insert(0, sys.argv[1])
import sparrow, sparrow.dataplane.ring as ring
from sparrow._native import _liburing
assert sparrow.__file__.startswith(sys.argv[1]), sparrow.__file__
assert _liburing.__file__.startswith(sys.argv[1]), _liburing.__file__
print(ring.RingMode.PLAIN)
"""


@pytest.mark.timeout(900)
def test_a_wheel_built_from_the_source_archive_works_without_the_checkout(tmp_path: Path) -> None:
    if not shutil.which("gcc"):
        pytest.skip("needs gcc (apt-get install gcc)")
    checkout, unpacked = tmp_path / "checkout", tmp_path / "unpacked"
    for path in tracked():
        copy = checkout / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    (checkout / "src/sparrow/_native").symlink_to("../_native")
    # -O0: this test is about what is in the archive, not how fast it is.
    environment = {**os.environ, "SPARROW_DEBUG": "1"}

    def run(*command: object, cwd: Path) -> str:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    run("-m", "build", "--sdist", "--no-isolation", "--outdir", tmp_path, cwd=checkout)
    shutil.rmtree(checkout)
    archive = next(tmp_path.glob("sparrow-*.tar.gz"))
    run(
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        tmp_path,
        archive,
        cwd=tmp_path,
    )
    wheel = next(tmp_path.glob("sparrow-*.whl"))
    with zipfile.ZipFile(wheel) as content:
        names = content.namelist()
        content.extractall(unpacked)
    assert "sparrow/py.typed" in names
    assert not [name for name in names if name.endswith((".pyx", ".pxd", ".c", ".h"))]
    modules = tracked("src/_native/*.pyx")
    built = {name.split(".")[0] for name in names if name.endswith(".so")}
    assert {f"sparrow/{p.relative_to(ROOT / 'src').with_suffix('')}" for p in modules} <= built
    assert run("-c", TRY, unpacked, cwd=tmp_path).strip() == "plain"
