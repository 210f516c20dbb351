"""Answers to SendTargets: which targets exist and where each of their replicas listens.

Source: RFC 7143, 13.3 (SendTargets), 13.8 (TargetAddress) and appendix C.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sparrow.frontends.iscsi.directory import TargetDirectory, TargetEntry
from sparrow.frontends.iscsi.keys import IRRELEVANT, NOT_UNDERSTOOD, REJECT, Pair
from sparrow.frontends.iscsi.negotiation import RULES

SEND_TARGETS = "SendTargets"


def answer_text(
    pairs: Sequence[Pair], *, directory: TargetDirectory, initiator_name: str, own_target: str = ""
) -> tuple[Pair, ...]:
    """Answer the keys of a Text Request in the full-feature phase.

    Args:
        own_target: the target of a normal session, empty in a discovery session.
    """
    answers: list[Pair] = []
    for key, value in pairs:
        if key == SEND_TARGETS:
            answers += _send_targets(value, directory, initiator_name, own_target)
        elif key == "InitiatorAlias":
            continue
        elif key in RULES:
            # Nothing is renegotiated after login: limits are in the core's hands by then.
            answers.append((key, IRRELEVANT if not own_target else REJECT))
        else:
            answers.append((key, NOT_UNDERSTOOD))
    return tuple(answers)


def _send_targets(
    value: str, directory: TargetDirectory, initiator_name: str, own_target: str
) -> Iterable[Pair]:
    """``All`` is for discovery sessions only, the empty value for normal ones only; a name serves both."""
    if own_target:
        entry = directory.find(own_target) if value in ("", own_target) else None
        return _describe(entry) if entry else [(SEND_TARGETS, REJECT)]
    if not value:
        return [(SEND_TARGETS, REJECT)]
    visible = directory.visible_to(initiator_name)
    return [pair for entry in visible if value in ("All", entry.name) for pair in _describe(entry)]


def _describe(entry: TargetEntry) -> list[Pair]:
    """TargetName and every portal of every replica, each with its portal group tag."""
    return [
        ("TargetName", entry.name),
        *(("TargetAddress", f"{portal.authority},{portal.group_tag}") for portal in entry.portals),
    ]
