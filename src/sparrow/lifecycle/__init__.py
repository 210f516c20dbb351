"""What volumes operators want, and where their replicas go. Pure.

Owns desired volumes and placement; it mints nothing, talks to nobody and never decides who is primary.
"""
