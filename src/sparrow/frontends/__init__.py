"""The conversational part of the block protocols: pure machines fed with bytes, answering with bytes.

It must never touch a socket, a clock or a thread, and never decides by itself whether a volume may be served.
"""
