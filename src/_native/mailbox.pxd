# Two rings of fixed messages between Python and one reactor. Each ring has one producer and one consumer; a payload is
# malloc'ed by the sender and freed by the receiver.
from libc.stdint cimport uint8_t, uint32_t, uint64_t


cdef enum:
    MAIL_SLOTS = 8192


cdef struct Mail:
    uint32_t kind
    uint32_t volume        # index of the volume in the reactor, or 0
    uint64_t token         # names the command that a completion answers; 0 for events
    uint64_t a
    uint64_t b
    uint64_t c
    uint64_t d
    int rc
    uint32_t flags
    uint8_t *data
    uint64_t length



cdef struct Ring:
    uint64_t head          # next slot to write; producer's
    uint64_t tail          # next slot to read; consumer's
    Mail *slots


cdef struct Mailbox:
    Ring down              # Python -> reactor
    Ring up                # reactor -> Python
    int down_fd            # eventfd the reactor sleeps on; -1 where whoever runs the reactor looks into the rings
    int up_fd              # eventfd Python's loop watches; -1 likewise
    bint up_written        # reactor: events pushed this turn


cdef int mailbox_open(Mailbox *box, bint eventfds) noexcept nogil
# Tell the reactor that there is mail. Thread: control.
cdef void mailbox_ring_down(Mailbox *box) noexcept nogil
cdef void mailbox_close(Mailbox *box) noexcept nogil
cdef bint ring_push(Ring *ring, const Mail *mail) noexcept nogil
cdef bint ring_pop(Ring *ring, Mail *mail) noexcept nogil
cdef void mailbox_ring_up(Mailbox *box) noexcept nogil
