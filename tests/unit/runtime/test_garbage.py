"""What survived one full collection is not looked at by the next, and garbage that is new is still found."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from sparrow.runtime import garbage


class Ring:
    """Refers to itself, so reference counts alone never end it."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def aside() -> Iterator[None]:
    garbage.set_survivors_aside()
    yield
    gc.callbacks.remove(garbage._after_collection)
    gc.unfreeze()


@pytest.mark.usefixtures("aside")
def test_survivors_of_a_full_collection_are_set_aside_and_young_ones_of_others_are_not() -> None:
    kept = [[number] for number in range(10_000)]
    before = gc.get_freeze_count()
    gc.collect(0)
    gc.collect(1)
    assert gc.get_freeze_count() == before, "only a full collection says what lives long"
    gc.collect()
    assert gc.get_freeze_count() >= before + len(kept)


@pytest.mark.usefixtures("aside")
def test_a_cycle_that_dies_before_a_full_collection_is_found_by_it() -> None:
    gone = weakref.ref(Ring())
    gc.collect()
    assert gone() is None


@pytest.mark.usefixtures("aside")
def test_asking_twice_sets_aside_once() -> None:
    garbage.set_survivors_aside()
    assert gc.callbacks.count(garbage._after_collection) == 1
