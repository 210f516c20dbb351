"""NVMe/TCP of a node: connections, Connect, discovery and admin queues in Python; I/O queues go to the core.

Unauthenticated bytes meet only the sans-IO machines of ``frontends.nvme``.
"""
