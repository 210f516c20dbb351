"""Tests; tests/unit mirrors src/sparrow and needs neither a compiler nor sockets."""
