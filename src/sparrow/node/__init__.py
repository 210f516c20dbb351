"""The process that hosts replicas: opening volumes, keeping peers in sync, accepting initiators.

Owns the control side of one node; must not mint a line, and never touches blocks: those belong to the core behind
``ports.dataplane``.

Begin with ``volume``, one replica with the lines it is told of. While it is primary it has a ``primacy``:

    one term         primacy drives opening/, then peers/: pure machines over events and effects; *_commands carry out
    as a follower    follower; what is found damaged: mending, scrub, verify
    the master       master_link: facts and delta up, instructions down to replicas; asks
    other nodes      peer_service answers them; links, link_ids and grants connect cores, each end proven
    initiators       iscsi, nvme/, nbd log in, then the socket is the core's; upcalls, reservations, forwarding, access
    the process      process opens replicas (found, pool) while app builds the rest; surroundings is what all share
"""
