"""NBD: the handshake and the haggling over options, up to the value handed over to the native core.

It must not read or write blocks: the transmission phase belongs to the core.
"""
