# Requests and the pieces they are carried out in. recv.pyx frames, this decides. Thread: reactor.
from sparrow._native.front.nbd.link cimport Piece, Request
from sparrow._native.layout cimport sp_nbd_request

# Fill in a request from its header; what it must not ask is its error from here on.
cdef void request_begin(Request *request, const sp_nbd_request *head) noexcept nogil
# Make pieces of a request without data and give them to the volume; False when the rest has to wait for room.
cdef bint request_split(Request *request) noexcept nogil
# All of its pieces are made.
cdef void request_split_over(Request *request) noexcept nogil
# The next piece of a WRITE, with pages for its data; NULL when there is no room now.
cdef Piece *data_piece(Request *request) noexcept nogil
# Its data is here: to the volume.
cdef void data_end(Piece *piece) noexcept nogil
