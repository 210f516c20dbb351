"""Builders, paired connections and fakes; imported by tests and bench only."""
