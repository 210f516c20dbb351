"""The command line against a fake master on a real socket: output, sentences, exit statuses."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sparrow.cli.main import main
from tests.support.command_line import Ran, Run
from tests.support.fake_master import FakeMaster, node_view, volume_view


@pytest.fixture
def master() -> Iterator[FakeMaster]:
    nodes = (
        node_view("n1", primary_count=1),
        node_view("n2", state="lost", last_heard_s=61.25),
        node_view("n3", state="never_seen", iscsi_addr="", pool_total_bytes=0),
    )
    with FakeMaster(volume_view("demo"), nodes=nodes) as fake:
        yield fake


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SPARROW_MASTER", raising=False)

    def go(*arguments: str, master: FakeMaster | None = None) -> Ran:
        if master is not None:
            monkeypatch.setenv("SPARROW_MASTER", master.address)
        monkeypatch.setattr(sys, "argv", ["sparrow", *arguments])
        try:
            main()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else (0 if end.code is None else 1)
        shown = capsys.readouterr()
        assert "Traceback" not in shown.out + shown.err
        return Ran(status, shown.out, shown.err)

    return go
