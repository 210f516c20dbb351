"""The files of one replica: made, opened and emptied here, on a thread that may block; the core only reads and writes.

``<pool>/volumes/<volume id>/<replica id>/`` holds ``superblock``, ``wal``, ``extents``, ``sums``, ``absences``. A node
with a WAL device keeps the log in a ring there (``dataplane/wal_device.py``); the superblock says where.
"""
