"""Mutated conversations against everything that reads bytes of a stranger."""
