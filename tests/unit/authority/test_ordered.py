"""Names in order, looked at while they come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sparrow.authority.ordered import STRIDE, OrderedNames, walk
from sparrow.base.ids import VolumeId

NAMES = st.lists(st.sampled_from([VolumeId(f"v{n}") for n in range(40)]))


def names(*some: str) -> OrderedNames:
    return OrderedNames([VolumeId(one) for one in some])


@given(NAMES, NAMES, NAMES)
def test_it_is_a_sorted_set(
    first: list[VolumeId], more: list[VolumeId], less: list[VolumeId]
) -> None:
    held, expected = OrderedNames(first), set(first)
    for one in more:
        held.add(one)
        expected.add(one)
    for one in less:
        held.discard(one)
        expected.discard(one)
    assert list(held) == sorted(expected)
    assert len(held) == len(expected)
    for one in (*first, *more, *less):
        assert (one in held) == (one in expected)
        assert held.after(one, 3) == sorted(name for name in expected if name > one)[:3]


@given(NAMES, NAMES, st.sampled_from(["", "v1", "v17", "v2", "w"]))
def test_a_walk_is_the_union_in_order_once(
    some: list[VolumeId], others: list[VolumeId], after: str
) -> None:
    found = list(walk(after, OrderedNames(some), OrderedNames(others)))
    assert found == sorted(name for name in {*some, *others} if name > after)


def test_a_walk_over_more_than_a_stride_leaves_nothing_out() -> None:
    """One order is dense where the other is sparse, and the other way about further on."""
    low = [VolumeId(f"a{n:04d}") for n in range(3 * STRIDE)]
    high = [VolumeId(f"b{n:04d}") for n in range(3 * STRIDE)]
    one, other = OrderedNames([*low, *high[::7]]), OrderedNames([*low[::5], *high])
    assert list(walk("", one, other)) == [*low, *high]


def test_what_comes_and_goes_during_a_walk_repeats_nothing_and_hides_nothing_else() -> None:
    stay = [VolumeId(f"m{n:04d}") for n in range(0, 4 * STRIDE, 2)]
    held = OrderedNames(stay)
    seen = []
    for count, name in enumerate(walk("", held)):
        seen.append(name)
        if count % 3 == 0:
            held.add(VolumeId(f"a{count}"))
            held.add(VolumeId(f"m{2 * count + 401:04d}"))
        held.discard(VolumeId(f"m{2 * count + 301:04d}"))
    assert [name for name in seen if name in stay] == stay
    assert seen == sorted(set(seen))
    assert not [name for name in seen if name.startswith("a")], "behind the walk already"
