"""The judge of `make conformance-iscsi`: nothing that fails, or is skipped without a reason, counts as a pass."""

from __future__ import annotations

from tests.interop.conformance import SKIPS, Outcome, judge, outcomes, read_skips

SAID = """
Suite: One
  Test: Passes ...
    Send READ10
    [OK] READ10 returned SUCCESS
passed
  Test: Silent ...passed    Send PRIN/READ_KEYS
    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
  Test: Fails ...
    [SKIPPED] a part of it
FAILED
    1. test_fails.c:1  - CU_ASSERT_EQUAL(_r,0)
Suite: Two
  Test: Skips ...    [SKIPPED] Media is not removable.
passed
  Test: Hangs ...
"""


def test_what_the_suite_says_is_understood():
    assert outcomes(SAID) == {
        "One.Passes": Outcome.PASSED,
        "One.Silent": Outcome.PASSED,
        "One.Fails": Outcome.FAILED,
        "Two.Skips": Outcome.SKIPPED,
        "Two.Hangs": Outcome.FAILED,
    }


def test_only_listed_skips_and_listed_faults_of_the_suite_are_let_through():
    found = outcomes(SAID)
    listed = {"Two.Skips": "why", "One.Fails": "FAILS: why", "Two.Hangs": "FAILS: why"}
    good = judge(found, listed, total=5)
    assert (good.faults, good.line) == ((), "pass: 2 fail: 0 skip: 3")
    assert judge(found, {}, total=5).faults == (
        "One.Fails failed, and should have passed",
        "Two.Hangs failed, and should have passed",
        "Two.Skips skipped, and should have passed",
    )
    stale = judge(found, listed | {"One.Passes": "why", "One.Gone": "why"}, total=5)
    assert stale.faults == (
        "One.Passes passed, and should have skipped",
        "One.Gone is listed and does not exist",
    )
    assert len(judge(found, listed, total=6).faults) == 1, "a test was overlooked"
    assert len(judge({}, {}, total=-1).faults) == 1, "a suite that never ran is no success"


def test_every_skip_has_its_reason():
    listed = read_skips(SKIPS.read_text())
    assert all(len(reason) > 20 for reason in listed.values())
