"""Who is primary and which replicas are in sync: the rules, as pure machines driven by events and a passed-in clock.

Owns lineage, observation, the controller, the publisher's rules, the engine and the adapter, the same code in master
and node; must never read a clock, touch a disk or a socket, or start a thread.
"""
