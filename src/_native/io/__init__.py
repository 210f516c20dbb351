"""The way out of the core: one table of I/O functions, filled by the kernel's ring or by a simulator."""
