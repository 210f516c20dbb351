"""The native core: what happens per block, without the GIL.

Only sparrow.dataplane imports this package; it imports nothing of sparrow.
"""
