# What one PDU of the initiator means. recv.pyx frames, this decides. Thread: reactor.
from sparrow._native.front.iscsi.session cimport Session


cdef enum PduVerdict:
    PDU_TAKE = 0               # stream its data to session.sink, or to nowhere
    PDU_STALL = 1              # no pages or no slot now: ask again with the same header

# The header in session.head is complete. Asked again after PDU_STALL, so nothing is changed before that is ruled out.
cdef PduVerdict pdu_begin(Session *session) noexcept nogil
# The data segment is complete too.
cdef void pdu_end(Session *session) noexcept nogil
