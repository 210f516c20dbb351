"""What a simulated run says of an error that is nobody's promise."""

from __future__ import annotations

import pytest

from sparrow.sim.checkers import Bug
from sparrow.sim.clock import unheard
from sparrow.sim.world import Shape, World
from tests.support.stage import ends_badly


class Timeout(BaseException):
    """As a test runner throws it into whatever runs."""


def struck_by(error: BaseException) -> None:
    """Something that runs in the cluster raises. Raises: what the run ends with."""
    world = World(1, Shape())

    def step() -> None:
        raise error

    try:
        world.loop.call_soon(step)
        world.run(1.0)
    finally:
        with unheard():
            world.close()


def test_an_error_that_nobody_expects_is_a_bug_of_the_run() -> None:
    with pytest.raises(Bug, match="unhandled TypeError: one argument"):
        struck_by(TypeError("one argument"))


def test_a_bug_is_no_proof_that_a_rule_is_needed() -> None:
    with pytest.raises(AssertionError, match="one argument"), ends_badly():
        struck_by(TypeError("one argument"))


def test_a_timeout_in_the_middle_of_a_step_is_no_broken_promise() -> None:
    with pytest.raises(Timeout), ends_badly():
        struck_by(Timeout())
