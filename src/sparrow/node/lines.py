"""Which lines of a volume a replica does not act on. Pure."""

from __future__ import annotations

from typing import Final

from sparrow.authority.types import Line

CONFLICT: Final = "same lineage, other content"


def refusal(known: Line | None, line: Line) -> str | None:
    """Why a line must not be acted on: older, of a replaced master, or another one of the same lineage; else None."""
    if known is None:
        return None
    if line.lineage < known.lineage:
        return "older than the one held"
    if line.lineage == known.lineage and line != known:
        return CONFLICT
    if _another_policy(known, line):
        return "another policy or minimum than the one held"
    if of_replaced_master(known, line):
        return f"of master generation {line.master_generation}, {known.master_generation} was seen"
    return None


def of_replaced_master(known: Line | None, line: Line) -> bool:
    """A newer line of an older master: two masters were running at one time."""
    if known is None or line.lineage <= known.lineage:
        return False
    return line.master_generation < known.master_generation


def _another_policy(known: Line, line: Line) -> bool:
    """A volume keeps both for life (S29): whoever says otherwise is no publisher of ours.

    A line that names none of the files the held one names may be of another life: a node that was away while a volume
    was deleted and made anew has to hear of it, or its old files stay for ever.
    """
    held = {member.uuid for member in known.members}
    same_life = not known.retired and any(member.uuid in held for member in line.members)
    return same_life and (known.ack, known.min_in_sync) != (line.ack, line.min_in_sync)
