# A follower's link from its primary. Thread: reactor.
from libc.stdint cimport uint64_t

from sparrow._native.volume cimport Volume

cdef enum LinkEnd:
    END_CLOSED = 1
    END_PROTOCOL = 2
    END_DAMAGED = 3
    END_SILENT = 4         # the primary has no such link any more, or says nothing

# Take what the primary of this term ships on a connected socket; takes the descriptor. An older link is ended.
cdef int follow_start(Volume *volume, int fd, uint64_t epoch, uint64_t start) noexcept nogil
# End the link, if there is one. cause 0: on our own behalf, nothing is told.
cdef void follow_drop(Volume *volume, int cause) noexcept nogil
# One whole batch in pool pages (the first is the header), whose references are taken: check it against the end of the
# log and take it over. 0, or -EPROTO (does not continue the log), -EBADMSG (damaged), -EAGAIN (no room now; pages kept
# by the caller).
cdef int batch_receive(Volume *volume, unsigned char **pages, unsigned int count) noexcept nogil
