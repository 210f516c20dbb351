"""Operators' plans of several steps. Pure.

A plan keeps no state of its own: it finds its next step from what is durable and what is seen, so that it goes on
after a crash at any point. It must not mint, and it must not take away the last copy of anything.
"""
