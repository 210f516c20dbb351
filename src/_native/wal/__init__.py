"""Log and superblock of one replica: batches, group commit, recovery."""
