"""iSCSI (RFC 7143): login, discovery and text negotiation, up to the value handed over to the native core.

It must not read or write blocks: the full-feature phase of a normal session belongs to the core.
"""
