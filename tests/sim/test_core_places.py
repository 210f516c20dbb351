"""A primary that lives through more replacements than a volume has places for peers, on compiled cores."""

from __future__ import annotations

from sparrow.base.constants import MEMBERS_MAX
from sparrow.base.ids import NodeId
from tests.support.compiled import CompiledStage, compiled_stage
from tests.support.stage import V


def replaced(s: CompiledStage, leaving: NodeId) -> None:
    """A node is drained and taken back; what it had is made anew on another."""
    s.operator("draining", leaving)
    s.until(lambda: leaving not in members_on(s) and s.world.all_healthy(), seconds=60)
    s.operator("active", leaving)


def members_on(s: CompiledStage) -> list[NodeId]:
    return [member.node_id for member in s.line.members]


def slots(s: CompiledStage) -> set[int]:
    return set(s.node(s.a).replicas.get(V).slots.used())


def test_a_primary_feeds_more_replicas_in_its_life_than_it_has_places_for() -> None:
    """Each of ten comes in, is counted on, and leaves; the last ones hold all that was ever acknowledged.

    Rule: a place is a peer's for as long as something refers to it, and whoever has it next has said nothing yet.
    """
    with compiled_stage(3, 2, nodes=4) as s:
        epoch = s.line.lineage.epoch
        seen = slots(s)
        for _ in range(MEMBERS_MAX + 2):
            before = s.acked
            replaced(s, next(one for one in members_on(s) if one != s.a))
            s.until(lambda before=before: s.acked > before + 5, seconds=10)  # type: ignore[misc]
            seen |= slots(s)
        assert s.line.lineage.epoch == epoch, "one primary all along"
        assert len(seen) == MEMBERS_MAX + 4, "in one life of its process: the next one counts anew"
        s.ends_well()
