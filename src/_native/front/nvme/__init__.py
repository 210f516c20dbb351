"""NVMe/TCP I/O queues, from Connect on."""
