"""``make conformance-iscsi``: every test of libiscsi's conformance suite against a volume with three replicas.

The volume has blocks of 512 bytes and lies on real processes; two paths lead to its primary. Ends with
``pass: P fail: F skip: S``. A test that skips must be listed in ``iscsi_skips.toml`` with its reason; one that is
listed and does not skip any more is a failure too, so the list cannot outlive its reasons.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final

from tests.support.cluster import Cluster
from tests.support.leave import end_on_sigterm
from tests.support.places import disk_directory

SKIPS: Final = Path(__file__).with_name("iscsi_skips.toml")
#: Less than 65536 blocks: with more, the suite's WRITE SAME begins with a WRITE longer than is told.
SIZE_BYTES: Final = 31 << 20
TIMEOUT_S: Final = 300.0
_SUITE: Final = re.compile(r"^Suite: (\S+)")
_TEST: Final = re.compile(r"^  Test: (\S+) \.\.\.(.*)")
_END: Final = re.compile(r"^(passed|FAILED)")


class Outcome(Enum):
    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the suite's outcomes and the list of skips come to together."""

    passed: int
    skipped: int
    faults: tuple[str, ...]

    @property
    def line(self) -> str:
        return f"pass: {self.passed} fail: {len(self.faults)} skip: {self.skipped}"


def outcomes(output: str) -> dict[str, Outcome]:
    """How each test ended, by ``Suite.Test``. What comes between two tests belongs to neither."""
    found: dict[str, Outcome] = {}
    suite = test = ""
    skipped = False
    for line in output.splitlines():
        if (begun := _SUITE.match(line)) is not None:
            suite = begun[1]
        elif (begun := _TEST.match(line)) is not None:
            test = f"{suite}.{begun[1]}"
            found[test] = Outcome.FAILED
            skipped = "[SKIPPED]" in begun[2]
            # A test that prints nothing ends on the line it begins with, and what follows it may begin there too.
            if begun[2].startswith("passed") or begun[2].endswith("passed"):
                found[test] = Outcome.SKIPPED if skipped else Outcome.PASSED
                test = ""
        elif test and (ended := _END.match(line)) is not None:
            if ended[1] == "passed":
                found[test] = Outcome.SKIPPED if skipped else Outcome.PASSED
            test = ""
        elif test and "[SKIPPED]" in line:
            skipped = True
    return found


def judge(found: Mapping[str, Outcome], listed: Mapping[str, str], *, total: int) -> Verdict:
    """Compare with the list.

    Args:
        listed: tests that cannot be passed, with the reason; ``FAILS: `` before it: one that runs and is itself wrong.
        total: tests the suite says it ran.
    """
    faults = []
    if total != len(found):
        faults.append(f"the suite ran {total} tests and {len(found)} were found in what it said")
    for test, outcome in sorted(found.items()):
        reason = listed.get(test)
        wanted = Outcome.PASSED
        if reason is not None:
            wanted = Outcome.FAILED if reason.startswith("FAILS: ") else Outcome.SKIPPED
        if outcome is not wanted:
            faults.append(f"{test} {outcome.value}, and should have {wanted.value}")
    faults += [f"{test} is listed and does not exist" for test in sorted(set(listed) - set(found))]
    passed = sum(outcome is Outcome.PASSED for outcome in found.values())
    return Verdict(passed=passed, skipped=len(set(listed) & set(found)), faults=tuple(faults))


def read_skips(text: str) -> dict[str, str]:
    """Reason by test."""
    listed: dict[str, str] = {}
    for entry in tomllib.loads(text)["skip"]:
        reason = ("FAILS: " if entry.get("fails", False) else "") + entry["reason"]
        assert entry["reason"].strip(), "a skip has a reason"
        for test in entry["tests"]:
            assert test not in listed, f"{test} is listed twice"
            listed[test] = reason
    return listed


def run(urls: Sequence[str]) -> tuple[str, int]:
    """Run ALL; what it said, and how many tests it says it ran."""
    done = subprocess.run(
        ["iscsi-test-cu", "--dataloss", "--Verbose-scsi", "--test", "ALL", *urls],
        capture_output=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    output = (done.stdout + done.stderr).decode(errors="replace")
    counted = re.search(r"^ +tests +(\d+) ", output, re.MULTILINE)
    return output, int(counted[1]) if counted else -1


def main() -> int:
    end_on_sigterm()
    with disk_directory("conformance") as place, Cluster(place) as cluster:
        cluster.create_volume("a", size=SIZE_BYTES, block_size=512)
        cluster.wait_healthy("a")
        url = cluster.url("a")
        output, total = run([url, url])
        different = cluster.verify("a")
    verdict = judge(outcomes(output), read_skips(SKIPS.read_text()), total=total)
    for fault in verdict.faults:
        print(fault)
    if different:
        print(f"pages {different} differ between replicas")
    print(verdict.line)
    if verdict.faults and len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(output)
    return 1 if verdict.faults or different else 0


if __name__ == "__main__":
    sys.exit(main())
