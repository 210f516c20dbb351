"""How many replicas are enough, by the policy of a line.

What holds for every line: each committed entry is on at least one of any ``answers_needed`` members of in_sync. Under
sync and local an entry is on all of them, so one would do; under quorum it is on two, so all but one are asked, and one
of two that were enough for a commit, or one that granted, is always among them.

It stays true through every mint. A replica joins when it has what was committed. One leaves a set of three or more only
after the primary has required all others, and each of them has everything (``node.peers.leaving``); a new epoch cannot
ask for that, so it begins with the whole set, the old primary included.
"""

from __future__ import annotations

from typing import Final

from sparrow.authority.types import AckPolicy, Line

#: Copies that commit an entry under quorum.
QUORUM: Final = 2


def commits_on_some(line: Line) -> bool:
    """Whether an entry may be committed without being on every replica in sync."""
    return line.ack is AckPolicy.QUORUM and len(line.in_sync) > QUORUM


def answers_needed(line: Line) -> int:
    """Members of in_sync, the opener among them, whose logs together hold everything committed."""
    return len(line.in_sync) - QUORUM + 1 if commits_on_some(line) else 1


def may_shrink(line: Line) -> bool:
    """Whether a member may leave: as many as the volume has copies are members without it."""
    return len(line.members) > line.replication_factor
