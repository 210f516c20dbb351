"""Measurements: micro benches of the native core (``make bench-micro``) and the table of ``make bench``."""
