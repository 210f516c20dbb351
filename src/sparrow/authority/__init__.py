"""Who is primary and which replicas are in sync: the rules, as pure machines driven by events and a passed-in clock.

Owns lineage, observation, the controller, the publisher's rules, the engine and the adapter, the same code in master
and node; must never read a clock, touch a disk or a socket, or start a thread.

Begin with ``types`` (line, ask, fact) and ``loop``, which the master drives with ``events`` and takes ``effects`` from:

    what nodes said      observation -> builder (a snapshot, or why there is none) -> evidence, quorum
    what is decided      controller: decide, balance, storm, convergence; which volumes need it: attention, quiet
    what is recorded     asks, validation -> publisher: mint, invariants, record, floor -> results
    what nodes are told  delivery, subscription
    what is desired      desired, planned, ordered; known of nodes alone: unrecorded
    what people see      status, telling
    after a loss         recovery (the store's), stale (of everyone with the last writes)

``engine`` and ``adapter`` bring one peer of a primary back; they run in nodes.
"""
