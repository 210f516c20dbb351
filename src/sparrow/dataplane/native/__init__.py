"""The native twin of the data plane: commands become mail to a reactor, mail from it becomes answers and events.

One reactor; every volume of the node lives there. Its thread, its ring and the files below it are the machine's
(``dataplane/machine.py``), so that the same commands drive the core inside the simulator. Each module has the commands
of one subject; :mod:`~sparrow.dataplane.native.plane` puts them together.
"""
