"""NVMe/TCP before an I/O queue is the core's: connections, Connect, the admin queue, discovery.

It must not open sockets, must not know a clock and must not move blocks.
"""
