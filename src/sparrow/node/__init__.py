"""The process that hosts replicas: opening volumes, keeping peers in sync, accepting initiators.

Owns the control side of one node; must not mint a line, and never touches blocks: those belong to the core behind
``ports.dataplane``.
"""
