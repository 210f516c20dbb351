"""Everything between processes but block traffic: wire messages, their codec, the error table, clients and servers.

Owns the only door to protobuf and gRPC; it must not decide anything, and no other room may import ``rpc.gen``.
"""
