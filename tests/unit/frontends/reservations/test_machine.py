"""The machine of reservations: each command by itself, and laws that hold after any sequence of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparrow.formats.reservations import (
    ALL_HOLD,
    ONE_HOLDER,
    RESERVATION_REGISTRANTS_MAX,
    ReservationNexus,
    ReservationRegistrant,
    ReservationTable,
    decode_table,
    encode_table,
)
from sparrow.frontends.reservations import machine
from sparrow.frontends.reservations.machine import (
    SHARED,
    TYPES,
    Change,
    Notice,
    Reason,
    Refusal,
    holds,
)

A, B, C, D = (ReservationNexus(kind=1, identifier=bytes(16), name=name) for name in "abcd")
KEYS = {A: 0xA, B: 0xB, C: 0xC, D: 0xD}
EMPTY = ReservationTable()


def with_keys(*nexuses: ReservationNexus, kind: int = 0, holder: ReservationNexus | None = None):
    return ReservationTable(
        registrants=tuple(ReservationRegistrant(nexus=n, key=KEYS[n]) for n in nexuses),
        generation=5,
        type=kind,
        holder=holder,
    )


def held_by_a(kind: int) -> ReservationTable:
    return with_keys(A, B, C, kind=kind, holder=None if kind in ALL_HOLD else A)


def after(change: Change) -> ReservationTable:
    assert change.table is not None
    assert decode_table(encode_table(change.table)) == change.table
    return change.table


def refused(reason: Reason, step: Callable[..., Change], *args: object, **kwargs: object) -> None:
    with pytest.raises(Refusal) as caught:
        step(*args, **kwargs)
    assert caught.value.reason is reason


def names(table: ReservationTable) -> str:
    return "".join(one.nexus.name for one in table.registrants)


# registrations


def test_who_has_no_key_registers_with_key_zero() -> None:
    table = after(machine.register(EMPTY, A, key=0, new_key=7, aptpl=True, port=2))
    assert table.registrants == (ReservationRegistrant(nexus=A, key=7, port=2),)
    assert (table.generation, table.aptpl, table.type) == (1, True, 0)


@pytest.mark.parametrize("key", [1, 0xB])
def test_a_wrong_key_registers_nothing(key: int) -> None:
    refused(Reason.CONFLICT, machine.register, EMPTY, A, key=key, new_key=7)
    refused(Reason.CONFLICT, machine.register, with_keys(A), A, key=key, new_key=7)
    refused(Reason.CONFLICT, machine.register, with_keys(A), A, key=key, new_key=0)


def test_the_key_is_not_looked_at_where_that_is_asked_for() -> None:
    table = after(machine.register(with_keys(A, B), A, key=None, new_key=9))
    assert [one.key for one in table.registrants] == [9, 0xB]


def test_a_holder_that_takes_another_key_goes_on_holding() -> None:
    table = after(machine.register(held_by_a(1), A, key=0xA, new_key=9))
    assert holds(table, A)
    assert not holds(table, B)


def test_aptpl_stays_where_nothing_is_said_of_it() -> None:
    table = replace(with_keys(A), aptpl=True)
    assert after(machine.register(table, B, key=0, new_key=1)).aptpl
    assert not after(machine.register(table, B, key=0, new_key=1, aptpl=False)).aptpl


@pytest.mark.parametrize("key", [0, None])
def test_unregistering_without_a_registration_does_nothing(key: int | None) -> None:
    assert machine.register(with_keys(A), B, key=key, new_key=0, aptpl=True) == Change()
    refused(Reason.CONFLICT, machine.register, with_keys(A), B, key=1, new_key=0)


def test_the_table_takes_63_and_no_more() -> None:
    table = EMPTY
    for number in range(RESERVATION_REGISTRANTS_MAX):
        table = after(machine.register(table, replace(A, name=f"n{number}"), key=0, new_key=1))
    refused(Reason.FULL, machine.register, table, A, key=0, new_key=1)
    again = after(machine.register(table, replace(A, name="n0"), key=1, new_key=2))
    freed = after(machine.register(again, replace(A, name="n0"), key=2, new_key=0))
    assert machine.register(freed, A, key=0, new_key=1).table is not None


@pytest.mark.parametrize("kind", TYPES)
def test_a_holder_that_unregisters_releases(kind: int) -> None:
    change = machine.register(held_by_a(kind), A, key=0xA, new_key=0)
    table = after(change)
    if kind in ALL_HOLD:
        assert table.type == kind
        assert change.notices == ()
        return
    assert (table.type, table.holder) == (0, None)
    told = (B, Notice.RESERVATIONS_RELEASED), (C, Notice.RESERVATIONS_RELEASED)
    assert change.notices == (told if kind in SHARED else ())


@pytest.mark.parametrize("kind", ALL_HOLD)
def test_the_last_of_all_registrants_releases(kind: int) -> None:
    table = after(machine.register(with_keys(A, kind=kind), A, key=0xA, new_key=0))
    assert table == ReservationTable(generation=6)


def test_a_registration_for_others_leaves_those_who_have_a_key_alone() -> None:
    made = after(machine.register(with_keys(B), A, key=0, new_key=7))
    table = machine.registered_too(made, (B, C, C, A), key=7, port=2)
    assert [(one.nexus, one.key) for one in table.registrants] == [(B, 0xB), (A, 7), (C, 7)]
    assert table.generation == made.generation
    many = (replace(A, name=f"n{number}") for number in range(RESERVATION_REGISTRANTS_MAX))
    with pytest.raises(Refusal) as caught:
        machine.registered_too(made, many, key=7, port=2)
    assert caught.value.reason is Reason.FULL


@pytest.mark.parametrize("kind", ONE_HOLDER)
@pytest.mark.parametrize("to", [B, D])
@pytest.mark.parametrize("unregister", [False, True])
def test_the_holder_moves_its_reservation(
    kind: int, to: ReservationNexus, unregister: bool
) -> None:
    before = held_by_a(kind)
    change = machine.register_and_move(
        before, A, key=0xA, new_key=9, to=to, port=3, unregister=unregister
    )
    table = after(change)
    assert (table.holder, table.type) == (to, kind)
    assert table.find(to) == ReservationRegistrant(nexus=to, key=9, port=3)
    assert holds(table, A) is False
    assert (table.find(A) is None) is unregister
    assert change.notices == machine.notices(before, table) == ()


def test_a_move_takes_the_place_that_it_frees() -> None:
    rows = tuple(
        ReservationRegistrant(nexus=replace(A, name=f"n{number}"), key=1)
        for number in range(RESERVATION_REGISTRANTS_MAX)
    )
    first = rows[0].nexus
    full = ReservationTable(registrants=rows, type=1, holder=first)
    step = {"key": 1, "new_key": 2, "to": A, "port": 1}
    refused(Reason.FULL, machine.register_and_move, full, first, **step)
    assert after(machine.register_and_move(full, first, **step, unregister=True)).holder == A


def test_clear_takes_everything_and_tells_the_others() -> None:
    change = machine.clear(held_by_a(5), B, key=0xB)
    assert after(change) == ReservationTable(generation=6)
    assert change.notices == (
        (A, Notice.RESERVATIONS_PREEMPTED),
        (C, Notice.RESERVATIONS_PREEMPTED),
    )


# the reservation


@pytest.mark.parametrize("kind", TYPES)
def test_a_registrant_reserves_and_others_then_cannot(kind: int) -> None:
    table = after(machine.reserve(with_keys(A, B), A, key=0xA, kind=kind))
    assert holds(table, A)
    assert holds(table, B) is (kind in ALL_HOLD)
    assert table.generation == 5
    assert machine.reserve(table, A, key=0xA, kind=kind) == Change()
    other = next(one for one in TYPES if one != kind)
    refused(Reason.CONFLICT, machine.reserve, table, A, key=0xA, kind=other)
    if kind in ALL_HOLD:
        assert machine.reserve(table, B, key=0xB, kind=kind) == Change()
    else:
        refused(Reason.CONFLICT, machine.reserve, table, B, key=0xB, kind=kind)


@pytest.mark.parametrize("kind", TYPES)
def test_release_ends_it_and_tells_those_who_shared_it(kind: int) -> None:
    change = machine.release(held_by_a(kind), A, key=0xA, kind=kind)
    assert after(change) == with_keys(A, B, C)
    told = (B, Notice.RESERVATIONS_RELEASED), (C, Notice.RESERVATIONS_RELEASED)
    assert change.notices == (told if kind in SHARED else ())


def test_who_does_not_hold_it_releases_nothing() -> None:
    assert machine.release(held_by_a(1), B, key=0xB, kind=1) == Change()
    assert machine.release(with_keys(A), A, key=0xA, kind=1) == Change()


def test_the_holder_must_name_the_type_it_holds() -> None:
    refused(Reason.OTHER_TYPE, machine.release, held_by_a(1), A, key=0xA, kind=3)


@pytest.mark.parametrize(
    ("step", "more"),
    [
        (machine.reserve, {"kind": 1}),
        (machine.release, {"kind": 1}),
        (machine.clear, {}),
        (machine.preempt, {"victim": 0xA, "kind": 1}),
    ],
)
def test_only_registrants_with_their_own_key_may(step: Callable[..., Change], more: dict[str, int]):
    refused(Reason.CONFLICT, step, with_keys(A, B), D, key=0, **more)
    refused(Reason.CONFLICT, step, with_keys(A, B), D, key=0xA, **more)
    refused(Reason.CONFLICT, step, with_keys(A, B), B, key=0xA, **more)


# whom a node tells that did not make the change


def as_others_see_it(
    before: ReservationTable, change: Change
) -> set[tuple[ReservationNexus, Notice]]:
    """From the table before and what was logged, as another node reads it."""
    return set(machine.notices(before, after(change)))


def test_who_was_preempted_is_told_from_who_gave_up() -> None:
    before = held_by_a(5)
    preempted = machine.preempt(before, A, key=0xA, victim=0xC, kind=5)
    gave_up = machine.register(before, C, key=0xC, new_key=0)
    assert after(preempted).registrants == after(gave_up).registrants
    assert as_others_see_it(before, preempted) == {(C, Notice.REGISTRATIONS_PREEMPTED)}
    assert as_others_see_it(before, gave_up) == set()
    # And the flag does not stay for what comes after.
    later = machine.register(after(preempted), B, key=0xB, new_key=0)
    assert as_others_see_it(after(preempted), later) == set()


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("new_kind", TYPES)
@pytest.mark.parametrize("victim", [0xA, 0xB, 0xC])
def test_others_are_told_what_the_maker_of_a_preempt_tells(kind: int, new_kind: int, victim: int):
    before = held_by_a(kind)
    change = machine.preempt(before, B, key=0xB, victim=victim, kind=new_kind)
    more = as_others_see_it(before, change) - set(change.notices)
    assert set(change.notices) <= as_others_see_it(before, change)
    # Who asked is told too where the table does not name it.
    assert {nexus for nexus, _ in more} <= {B}
    if victim != 0xB and new_kind not in ALL_HOLD:
        assert more == set()


@pytest.mark.parametrize("kind", TYPES)
def test_others_are_told_of_the_end_of_a_reservation(kind: int) -> None:
    before = held_by_a(kind)
    for change in (
        machine.release(before, A, key=0xA, kind=kind),
        machine.register(before, A, key=0xA, new_key=0),
    ):
        assert as_others_see_it(before, change) - {(A, Notice.RESERVATIONS_RELEASED)} == set(
            change.notices
        )
    cleared = machine.clear(before, B, key=0xB)
    assert as_others_see_it(before, cleared) - {(B, Notice.RESERVATIONS_PREEMPTED)} == set(
        cleared.notices
    )


def test_others_are_told_nothing_of_what_concerns_nobody() -> None:
    before = held_by_a(5)
    for change in (
        machine.register(before, D, key=0, new_key=0xD),
        machine.register(before, B, key=0xB, new_key=0xBB),
        machine.reserve(with_keys(A, B), A, key=0xA, kind=5),
    ):
        assert as_others_see_it(before, change) == set()
    alone = with_keys(A, kind=5, holder=A)
    assert as_others_see_it(alone, machine.clear(alone, A, key=0xA)) == set()
    held = machine.reserve_unit(EMPTY, A)
    assert as_others_see_it(EMPTY, held) == set()
    assert as_others_see_it(after(held), machine.release_unit(after(held), A)) == set()


# preempting


@pytest.mark.parametrize("kind", [one for one in TYPES if one not in ALL_HOLD])
@pytest.mark.parametrize("new_kind", TYPES)
def test_preempting_the_holder_takes_the_reservation(kind: int, new_kind: int) -> None:
    change = machine.preempt(held_by_a(kind), B, key=0xB, victim=0xA, kind=new_kind)
    table = after(change)
    assert names(table) == "bc"
    assert table.type == new_kind
    assert holds(table, B)
    assert table.generation == 6
    told = [(A, Notice.REGISTRATIONS_PREEMPTED)]
    if kind != new_kind:
        told.append((C, Notice.RESERVATIONS_RELEASED))
    assert list(change.notices) == told


def test_preempting_another_registrant_leaves_the_reservation() -> None:
    change = machine.preempt(held_by_a(5), B, key=0xB, victim=0xC, kind=3)
    table = after(change)
    assert (names(table), table.type, table.holder) == ("ab", 5, A)
    assert change.notices == ((C, Notice.REGISTRATIONS_PREEMPTED),)


def test_a_holder_may_preempt_itself_into_another_type() -> None:
    change = machine.preempt(held_by_a(1), A, key=0xA, victim=0xA, kind=5)
    table = after(change)
    assert (names(table), table.type, table.holder) == ("abc", 5, A)
    assert change.notices == (
        (B, Notice.RESERVATIONS_RELEASED),
        (C, Notice.RESERVATIONS_RELEASED),
    )


def test_who_preempts_its_own_key_without_holding_is_gone_too() -> None:
    table = after(machine.preempt(held_by_a(1), B, key=0xB, victim=0xB, kind=1))
    assert (names(table), table.holder) == ("ac", A)


@pytest.mark.parametrize("kind", ALL_HOLD)
def test_key_zero_preempts_everybody_where_all_hold(kind: int) -> None:
    change = machine.preempt(held_by_a(kind), B, key=0xB, victim=0, kind=1)
    table = after(change)
    assert (names(table), table.type, table.holder) == ("b", 1, B)
    assert change.notices == (
        (A, Notice.REGISTRATIONS_PREEMPTED),
        (C, Notice.REGISTRATIONS_PREEMPTED),
    )


@pytest.mark.parametrize("kind", ALL_HOLD)
def test_a_key_preempts_its_registrants_only_where_all_hold(kind: int) -> None:
    table = after(machine.preempt(held_by_a(kind), B, key=0xB, victim=0xA, kind=1))
    assert (names(table), table.type) == ("bc", kind)
    alone = after(machine.preempt(with_keys(B, kind=kind), B, key=0xB, victim=0xB, kind=1))
    assert alone == ReservationTable(generation=6)


@pytest.mark.parametrize("kind", TYPES)
def test_only_preempt_and_abort_ends_commands_and_of_those_who_lose(kind: int) -> None:
    for victim, lost in ((0xA, (A,)), (0xC, (C,))):
        step = {"key": 0xB, "victim": victim, "kind": 5}
        plain = machine.preempt(held_by_a(kind), B, **step)
        aborting = machine.preempt(held_by_a(kind), B, **step, abort=True)
        assert plain.aborted == ()
        assert aborting.aborted == lost
        assert (plain.table, plain.notices) == (aborting.table, aborting.notices)
    if kind in ALL_HOLD:
        everybody = machine.preempt(held_by_a(kind), B, key=0xB, victim=0, kind=5, abort=True)
        assert everybody.aborted == (A, C)


def test_key_zero_names_nobody_elsewhere() -> None:
    refused(Reason.NO_KEY, machine.preempt, held_by_a(1), B, key=0xB, victim=0, kind=1)
    refused(Reason.NO_KEY, machine.preempt, with_keys(A, B), B, key=0xB, victim=0, kind=1)


def test_a_key_that_nobody_has_is_a_conflict() -> None:
    refused(Reason.CONFLICT, machine.preempt, held_by_a(1), B, key=0xB, victim=9, kind=1)


def test_one_key_of_many_goes_as_one() -> None:
    table = with_keys(A, B, C, kind=1, holder=A)
    rows = tuple(replace(one, key=1) if one.nexus != B else one for one in table.registrants)
    change = machine.preempt(replace(table, registrants=rows), B, key=0xB, victim=1, kind=1)
    assert names(after(change)) == "b"
    assert {nexus for nexus, _ in change.notices} == {A, C}


# RESERVE(6)


def test_reserve_6_is_held_until_its_holder_releases() -> None:
    table = after(machine.reserve_unit(EMPTY, A))
    assert table.by_reserve
    assert machine.reserve_unit(table, A) == Change()
    refused(Reason.CONFLICT, machine.reserve_unit, table, B)
    assert machine.release_unit(table, B) == Change()
    assert after(machine.release_unit(table, A)) == EMPTY
    assert after(machine.reserve_ended(table)) == EMPTY
    assert machine.reserve_ended(held_by_a(1)) == Change()


@pytest.mark.parametrize("asker", [A, B])
def test_nobody_registers_under_reserve_6(asker: ReservationNexus) -> None:
    table = after(machine.reserve_unit(EMPTY, A))
    refused(Reason.CONFLICT, machine.register, table, asker, key=0, new_key=1)
    refused(Reason.CONFLICT, machine.register, table, asker, key=None, new_key=1)
    refused(Reason.CONFLICT, machine.clear, table, asker, key=0)
    refused(Reason.CONFLICT, machine.reserve, table, asker, key=0, kind=1)


@pytest.mark.parametrize("step", [machine.reserve_unit, machine.release_unit])
@pytest.mark.parametrize("kind", TYPES)
def test_beside_registrations_reserve_6_does_nothing_for_those_let_in(
    kind: int, step: Callable[[ReservationTable, ReservationNexus], Change]
) -> None:
    table = held_by_a(kind)
    assert step(table, A) == Change()
    if kind in SHARED:
        assert step(table, B) == Change()
    else:
        refused(Reason.CONFLICT, step, table, B)
    refused(Reason.CONFLICT, step, table, D)


@pytest.mark.parametrize("step", [machine.reserve_unit, machine.release_unit])
def test_reserve_6_is_refused_beside_registrations_without_a_reservation(step) -> None:
    refused(Reason.CONFLICT, step, with_keys(A), A)


# any sequence


nexuses = st.sampled_from([A, B, C, D])
keys = st.sampled_from([0, 1, 2, 3])
kinds = st.sampled_from(TYPES)
GROWS = ("register", "clear", "preempt", "move")
commands = st.one_of(
    st.tuples(st.just("register"), nexuses, keys, keys, st.booleans()),
    st.tuples(st.just("reserve"), nexuses, kinds),
    st.tuples(st.just("release"), nexuses, kinds),
    st.tuples(st.just("clear"), nexuses),
    st.tuples(st.just("preempt"), nexuses, keys, kinds),
    st.tuples(st.just("move"), nexuses, keys, nexuses, st.booleans()),
    st.tuples(st.just("reserve_unit"), nexuses),
    st.tuples(st.just("release_unit"), nexuses),
)


def key_of(table: ReservationTable, nexus: ReservationNexus) -> int:
    own = table.find(nexus)
    return own.key if own else 0


def carry_out(table: ReservationTable, command) -> Change:
    name, nexus, *more = command
    key = key_of(table, nexus)
    match name:
        case "register":
            said, new_key, ignore = more
            return machine.register(table, nexus, key=None if ignore else said, new_key=new_key)
        case "reserve":
            return machine.reserve(table, nexus, key=key, kind=more[0])
        case "release":
            return machine.release(table, nexus, key=key, kind=more[0])
        case "clear":
            return machine.clear(table, nexus, key=key)
        case "preempt":
            return machine.preempt(table, nexus, key=key, victim=more[0], kind=more[1])
        case "move":
            new_key, to, leaves = more
            return machine.register_and_move(
                table, nexus, key=key, new_key=new_key, to=to, port=1, unregister=leaves
            )
        case "reserve_unit":
            return machine.reserve_unit(table, nexus)
        case _:
            return machine.release_unit(table, nexus)


@given(st.lists(commands, max_size=40))
def test_laws_that_hold_after_any_command(sequence) -> None:
    table = EMPTY
    for command in sequence:
        name, nexus, *more = command
        try:
            change = carry_out(table, command)
        except Refusal:
            continue
        new = table if change.table is None else after(change)
        counts = name in GROWS and not (name == "register" and change.table is None)
        assert new.generation == table.generation + counts
        # Nobody is told who asked, or who had nothing to lose.
        before = {one.nexus for one in table.registrants}
        assert all(told != nexus and told in before for told, _ in change.notices)
        assert len({told for told, _ in change.notices}) == len(change.notices)
        # Who lost a registration without asking is told so.
        gone = before - {one.nexus for one in new.registrants} - {nexus}
        told = {one for one, notice in change.notices if notice != Notice.RESERVATIONS_RELEASED}
        assert gone == told
        # A reservation has a holder, and without registrants there is none.
        assert new.type == 0 or any(
            holds(new, one.nexus) or new.by_reserve for one in new.registrants
        )
        if name == "preempt":
            assert all(one.key != more[0] or one.nexus == nexus for one in new.registrants)
        table = new
