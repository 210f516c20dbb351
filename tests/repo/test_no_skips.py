"""Where no skip is allowed, each kind of skip fails with its reason; elsewhere it stays a skip."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CASES = {
    "test_mark.py": "import pytest\n@pytest.mark.skipif(True, reason='needs a thing')\ndef test_a(): pass\n",
    "test_call.py": "import pytest\ndef test_a(): pytest.skip('needs a thing')\n",
    "test_module.py": "import pytest\npytest.importorskip('no_such_module', reason='needs a thing')\n",
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strict", [True, False])
def test_a_skip_fails_only_where_none_is_allowed(tmp_path: Path, name: str, strict: bool) -> None:
    (tmp_path / name).write_text(CASES[name])
    (tmp_path / "conftest.py").write_text((ROOT / "tests/conftest.py").read_text())
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "SPARROW_NO_SKIPS": "1" if strict else ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "needs a thing" in done.stdout
    assert ("skipped where no skip is allowed" in done.stdout) == strict
    assert (done.returncode in (1, 2)) == strict, done.stdout
