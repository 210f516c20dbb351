"""Schedules of the authority, on whole clusters of compiled cores, and each without its rule."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sparrow.authority.types import AckPolicy
from tests.sim import test_schedules as model
from tests.support.compiled import compiled_stage
from tests.support.stage import Stage, ends_badly

#: Without those that move the disk of the model, or speak of what the model alone has.
SCHEDULES = (
    model.s3a_grown_without_hearing_of_it,
    model.s3b_restarts_alone_with_an_old_line,
    model.s4_the_first_fact_is_the_newest,
    model.s5a_a_queued_reassign,
    model.s5b_a_grow_after_the_failover,
    model.s5c_a_cancel_always_mints,
    model.s14a_the_grant_of_another_is_waited_for,
    model.s14b_any_member_may_open,
    model.s14e_a_shrink_before_the_others_have_everything,
    model.s17_another_disk_in_the_place_of_an_in_sync_one,
    model.s18a_a_damaged_row_is_not_replaced_by_the_one_before,
    model.s25_the_only_holder_is_cut_off_and_serves_on,
    model.l3_a_dead_peer_does_not_hold_up_an_opening,
    model.l5_a_primary_that_reaches_only_the_master_hands_over,
    model.l11_an_old_primary_that_still_claims_blocks_nothing,
    model.l13_silence_towards_the_master_alone_moves_nothing,
)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_well(schedule: Callable[[Stage], None]) -> None:
    rf, least, _ = model.SCHEDULES[schedule]
    with compiled_stage(rf, least, ack=model.POLICIES.get(schedule, AckPolicy.SYNC)) as s:
        schedule(s)


#: Who leads first decides whether these two lose anything; with other seeds the core's other rules hold them up.
SEEDS = {
    model.s14b_any_member_may_open: 16,
    model.s14e_a_shrink_before_the_others_have_everything: 16,
}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda one: one.__name__)
def test_the_schedule_ends_badly_without_its_rule(
    schedule: Callable[[Stage], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    rf, least, take_away = model.SCHEDULES[schedule]
    early = schedule in model.EARLY
    if early:
        take_away(monkeypatch)
    policy = model.POLICIES.get(schedule, AckPolicy.SYNC)
    with compiled_stage(rf, least, SEEDS.get(schedule, 1), ack=policy) as s:
        if not early:
            take_away(monkeypatch)
        with ends_badly():
            schedule(s)
