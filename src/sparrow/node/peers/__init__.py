"""The peers of an open volume: brought back, fed, taken into the in-sync set, asked out of it.

A pure machine that takes over when ``node.opening`` has allowed the gate; ``node.primacy`` carries out its effects.
What a peer needs (nothing, the log, everything anew, a fence, to be grown) is decided by its engine behind
``authority.adapter``; here is what an executor owes the engine: links, joins, pending, asks, and when to try again.

Each module has one of these subjects, on top of the one before; :mod:`~sparrow.node.peers.machine` puts them together.
"""
