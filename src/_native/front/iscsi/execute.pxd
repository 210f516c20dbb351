# A command whose data is all here, on its way through the volume or Python. Thread: reactor.
from sparrow._native.front.iscsi.session cimport Slot

# Hand it to whoever carries it out; it may be answered at once.
cdef void execute(Slot *slot) noexcept nogil
# Hand it, or a request that is no SCSI command, to Python with the data that came.
cdef void execute_upcall(Slot *slot) noexcept nogil
