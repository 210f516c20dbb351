"""Where the epochs of a volume without a line begin: never among those that a lost store may have minted.

A volume's name keeps its epochs in its line, and after a deletion in its tombstone. A store that was restored from a
copy, or rebuilt from nodes, has lost lines: of volumes bound after the copy, and of volumes that no node which
answered holds files of. Bound again at epoch 1, such a name would use an epoch twice, and a late message, a promise
or a term of a log from its first life would be taken for one of its second.

Which epochs the lost store reached is known to nobody, so they are bounded by construction. Every restore and every
rebuild begins a store at a master generation G, more than ``GENERATION_GAP`` above every generation it knows of, and
records ``floor_of(G) = G * EPOCHS_PER_GENERATION``. A line that follows no line begins at ``floor + 1``. The first
store of a cluster has the floor 0.

Why no epoch of a name is used twice. Take the stores of a cluster in the order of their generations, and let the one
with the floor F mint an epoch e for a name. Either the name has no line, and e = F + 1; or e follows the recorded
line by one; or e follows what nodes or a damaged row prove by ``EPOCH_GAP`` and a generation. What was recorded or
proved came from this store or from one before it, whose epochs were below F. So e <= F + n + r * (EPOCH_GAP + g): n
failovers and deletions of this one name in this store, r recoveries of it by hand, g a generation of it. The next
store's floor is at least ``GENERATION_GAP * EPOCHS_PER_GENERATION``, 67 million, above F, and the sum stays below
that: a failover every second lasts two years. So the next store's epochs of this name begin above all that this one
ever minted, whether anybody remembers them or not, and also when this one lives on beside it and goes on minting.

What it rests on, and does not cover: no two stores begin at the same generation. One that is restored over the one
before, from a copy kept by nodes, or rebuilt while a node answers that heard the last master, is above it. An old
backup that is put on an empty disk a second time, or after more than ``GENERATION_GAP`` starts of the master, and a
rebuild of which every node that heard the last master stays away, know nothing of it. Generations, by which nodes
refuse a replaced master, are used twice then as well. What is left is that files of two lives differ in their uuids,
so no replica of one is ever taken for one of the other.
"""

from __future__ import annotations

from typing import Final

#: Epochs between the floors of two generations.
EPOCHS_PER_GENERATION: Final = 1 << 16


def floor_of(generation: int) -> int:
    """The floor of a store that was restored or rebuilt and begins at this master generation."""
    return generation * EPOCHS_PER_GENERATION
