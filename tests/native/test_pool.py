"""The page pool: every page once, none lost, and neighbours for those who take many."""

from __future__ import annotations

import random

import pytest

from sparrow._native.pool_testbed import PoolBed

CHUNK = 32


def count_whole(count: int, taken: set[int]) -> int:
    """Chunks of a pool of so many pages in which nothing is taken."""
    return (count + CHUNK - 1) // CHUNK - len(taken)


@pytest.mark.parametrize("count", [2, 31, 32, 33, 100, 257])
@pytest.mark.parametrize("seed", range(5))
def test_no_page_is_given_twice_and_none_is_lost(count: int, seed: int) -> None:
    rng = random.Random(seed)
    pool = PoolBed(count)
    held: dict[int, int] = {}
    free = count - 1
    assert pool.free == free, "one is the page of zeros"
    for _ in range(5000):
        draw = rng.random()
        if draw < (0.6 if rng.random() < 0.5 else 0.35):
            index = pool.take(rng.random() < 0.5)
            assert (index is None) == (free == 0)
            if index is not None:
                assert index not in held
                assert 0 < index < count, "the first is the page of zeros"
                held[index] = 1
                free -= 1
        elif held and draw < 0.7:
            index = rng.choice(list(held))
            pool.hold(index)
            held[index] += 1
        elif held:
            index = rng.choice(list(held))
            pool.drop(index)
            held[index] -= 1
            if held[index] == 0:
                del held[index]
                free += 1
        assert pool.free == free
        # The chunk that runs come out of is not counted, whatever it has.
        taken = {index // CHUNK for index in held} | {0}
        assert 0 <= count_whole(count, taken) - pool.whole <= 1
    for index, references in held.items():
        for _ in range(references):
            pool.drop(index)
    assert pool.free == count - 1
    assert {pool.take() for _ in range(count)} == {None, *range(1, count)}


def test_runs_are_neighbours_though_single_pages_come_and_go() -> None:
    pool = PoolBed(64 * CHUNK)
    rng = random.Random(1)
    singles = [pool.take() for _ in range(20 * CHUNK)]
    rng.shuffle(singles)
    for index in singles[: 10 * CHUNK]:
        assert index is not None
        pool.drop(index)
    for _ in range(20):
        run = [pool.take(run=True) for _ in range(CHUNK)]
        assert run == list(range(run[0] or 0, (run[0] or 0) + CHUNK))
        # Into the gaps, not into what is whole.
        assert pool.take() in singles


def test_a_pool_in_pieces_still_gives_all_it_has() -> None:
    pool = PoolBed(4 * CHUNK)
    pages = [pool.take() for _ in range(4 * CHUNK - 1)]
    assert pool.take(run=True) is None
    for index in pages[::2]:
        assert index is not None
        pool.drop(index)
    assert {pool.take(run=True) for _ in pages[::2]} == set(pages[::2])
    assert pool.take() is None
