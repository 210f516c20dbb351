# Fused Compare and Write: two commands that are carried out as one. Thread: reactor.
from sparrow._native.front.nvme.queue cimport Queue, Slot
from sparrow._native.layout cimport sp_nvme_sqe

# The Compare was taken: the next command is to be its Write.
cdef void fused_first(Slot *slot) noexcept nogil
# It came.
cdef void fused_second(Slot *slot, const sp_nvme_sqe *sqe) noexcept nogil
# Another command came instead.
cdef void fused_drop_first(Queue *queue) noexcept nogil
# All of a half's data is here, or it has failed (its status says so).
cdef void fused_settle(Slot *slot) noexcept nogil
# The volume has done, or refused, the Write.
cdef void fused_done(Slot *slot, int rc) noexcept nogil
