"""`make guest`: scenarios are pytest functions in files named scenario_*.py; the last line counts them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.interop.guest.bed import Bed
from tests.interop.guest.bed import bed as make_bed

KILLS = 10

_ended: dict[str, str] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--kills", type=int, default=KILLS, help="how often a failover scenario kills the primary"
    )


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--kills"))


@pytest.fixture
def bed() -> Iterator[Bed]:
    with make_bed() as made:
        yield made


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed or report.skipped:
        _ended[report.nodeid] = "failed" if report.failed else "skipped"
    elif report.when == "call":
        _ended.setdefault(report.nodeid, "passed")


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Behind everything that pytest prints. What was skipped has not passed."""
    if _ended:
        failed = sum(1 for how in _ended.values() if how != "passed")
        print(f"scenarios: {len(_ended)} failed: {failed}")
