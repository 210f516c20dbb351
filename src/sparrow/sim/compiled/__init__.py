"""The same clusters on compiled cores: real logs, extents, links and grants on virtual disks and sockets."""
