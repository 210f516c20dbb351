"""``sparrow ...``: argument parsing and printing.

Owns words on a terminal; it must not decide anything about volumes, and reaches a cluster only through ``rpc``.
"""
