"""A pure-Python twin of the data plane: several nodes in one process, no disk and no socket, for tests.

What is durable lives in :class:`ModelPool` and survives the twin; everything else dies with it. Links are tokens of a
:class:`~sparrow.dataplane.model.links.Fabric`. It keeps every promise the port makes that control code relies on:
terms and promises, cuts, joins, commit over the needed peers, grants between nodes, gate and fence.
"""
