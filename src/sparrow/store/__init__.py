"""The master's durable state: SQLite, and a twin in memory that behaves the same for tests and the simulator.

Owns rows, checksums, the lock and the guard against going back; it must never choose an epoch or an endpoint version.
"""
