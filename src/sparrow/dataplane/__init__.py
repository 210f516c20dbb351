"""The only door to the native core: typed commands down, typed events up.

Owns the life of reactors and rings; must not decide anything about authority.
"""
