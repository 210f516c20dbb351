"""SCSI commands that neither move nor flush blocks (SPC-4, SBC-3), answered from a frozen picture of the unit.

It must not read or write blocks and must not decide whether a unit may serve: that is told to it.
"""
