"""Opening a volume under a line that names this replica primary: from the promise to the open gate.

A pure machine; ``node.primacy`` carries out its effects. The order is the whole point (docs/ARCHITECTURE.md, "Life of a
failover"):

    STARTING    the term is durable here
    FENCING     every member of in_sync and pending has promised the term and told what its log holds; who does not
                answer is first taken out by a minted line. Under ack=quorum so many are enough that every two meet
                them (``authority.quorum``), and nobody may be taken out: he might have the second copy of something
    ADOPTING    the log with the highest last (term, LSN) is taken over
    JOINING     every follower needed has cut to the common point, durably, and is fed over a link of this term
    COMMITTING  the term-start entry, and with it everything inherited, becomes durable on all of them
    ALLOWED     the gate may open once every promise that was named has run out or was given back

A promise protects reads of the one term it was given to. The primary of that term answers a fence with its gate closed
for good and says so (``closed``); from then on nothing is served under that promise, so it is not waited for, whoever
gave it. Promises to other terms, and the hold-off of a process that started, are waited for all the same.

BLOCKED is left by trying again: the evidence was reported, and another answer or another line may resolve it.
OVER is final: a newer promise exists, only a newer line can help.

Each module has one subject, on top of the one before: ``state``, ``base``, ``gate``, ``fencing``, ``joining``;
:mod:`~sparrow.node.opening.machine` puts them together.
"""
