"""Pages at rest: the dirty map over the log, checksums, reads through the committed view, the flusher."""
