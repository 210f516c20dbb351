"""The master's process: what nodes report in, what they must do out, and the control API.

Owns the running authority loop and its store; it decides nothing itself and meets nodes only over ``rpc``.
"""
