"""iSCSI in full-feature phase: PDUs, the SCSI commands that move data, task management."""
