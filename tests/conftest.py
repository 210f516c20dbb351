"""What holds for every test: where no skip is allowed, a skip is a failure.

CI installs everything a test can need and sets SPARROW_NO_SKIPS=1, so that a test which quietly stopped
running is noticed.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import Any

import pytest
import structlog

NO_SKIPS = os.environ.get("SPARROW_NO_SKIPS", "") not in ("", "0")


def skip_reason(longrepr: object) -> str:
    """The reason inside a skip's (path, line, reason) triple."""
    return str(longrepr[2]) if isinstance(longrepr, tuple) else str(longrepr)


@pytest.fixture(autouse=True)
def _logging_as_imported() -> Generator[None]:
    """A test that sets up a process's logging must not leave its captured stream to the next one."""
    yield
    structlog.reset_defaults()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn the skip of one test into a failure."""
    report = yield
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = (
            f"{item.nodeid} was skipped where no skip is allowed: {skip_reason(report.longrepr)}"
        )
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, Any, pytest.CollectReport]:
    """Turn the skip of a whole file into a failure."""
    report: pytest.CollectReport = yield
    if NO_SKIPS and report.skipped:
        report.outcome = "failed"
        report.longrepr = f"{collector.nodeid} was skipped where no skip is allowed: {skip_reason(report.longrepr)}"
    return report
