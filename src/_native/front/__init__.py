"""Block protocols in full-feature phase: what runs per command."""
