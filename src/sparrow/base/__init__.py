"""Words everyone uses: ids, constants, the error tree, event names.

Owns no behaviour and imports only the standard library; it must never know about a volume's state.
"""
