"""The outside world as Protocols: what the pure rooms need from clocks, stores and data planes.

Owns no code that does anything; it must never import a room that implements it.
"""
