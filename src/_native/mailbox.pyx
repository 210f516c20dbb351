"""Mail between Python and a reactor: lock-free single-producer rings and an eventfd for each direction."""

from libc.stdint cimport uint64_t

from sparrow._native.sys cimport (
    EFD_CLOEXEC, EFD_NONBLOCK, ENOMEM, calloc, close, eventfd, free, memset, sp_load_acquire, sp_store_release, write,
)


cdef int mailbox_open(Mailbox *box, bint eventfds) noexcept nogil:
    memset(box, 0, sizeof(Mailbox))
    box.down.slots = <Mail *>calloc(MAIL_SLOTS, sizeof(Mail))
    box.up.slots = <Mail *>calloc(MAIL_SLOTS, sizeof(Mail))
    box.down_fd = -1
    box.up_fd = -1
    if not eventfds:
        if box.down.slots == NULL or box.up.slots == NULL:
            mailbox_close(box)
            return -ENOMEM
        return 0
    # The reactor reads its eventfd through the ring, which needs a blocking one; Python polls the other.
    box.down_fd = eventfd(0, EFD_CLOEXEC)
    box.up_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
    if box.down.slots == NULL or box.up.slots == NULL or box.down_fd < 0 or box.up_fd < 0:
        mailbox_close(box)
        return -ENOMEM
    return 0


cdef void mailbox_close(Mailbox *box) noexcept nogil:
    cdef Mail mail
    # Payloads of what nobody has read.
    while box.down.slots != NULL and ring_pop(&box.down, &mail):
        free(mail.data)
    while box.up.slots != NULL and ring_pop(&box.up, &mail):
        free(mail.data)
    free(box.down.slots)
    free(box.up.slots)
    if box.down_fd > 0:
        close(box.down_fd)
    if box.up_fd > 0:
        close(box.up_fd)
    memset(box, 0, sizeof(Mailbox))


cdef bint ring_push(Ring *ring, const Mail *mail) noexcept nogil:
    """False when the ring is full."""
    cdef uint64_t head = ring.head
    if head - sp_load_acquire(&ring.tail) >= MAIL_SLOTS:
        return False
    ring.slots[head % MAIL_SLOTS] = mail[0]
    sp_store_release(&ring.head, head + 1)
    return True


cdef bint ring_pop(Ring *ring, Mail *mail) noexcept nogil:
    """False when the ring is empty."""
    cdef uint64_t tail = ring.tail
    if tail == sp_load_acquire(&ring.head):
        return False
    mail[0] = ring.slots[tail % MAIL_SLOTS]
    sp_store_release(&ring.tail, tail + 1)
    return True


cdef void mailbox_ring_up(Mailbox *box) noexcept nogil:
    """Wake Python once for all events of a turn."""
    cdef uint64_t one = 1
    if box.up_written:
        box.up_written = False
        if box.up_fd >= 0:
            write(box.up_fd, &one, 8)


cdef void mailbox_ring_down(Mailbox *box) noexcept nogil:
    cdef uint64_t one = 1
    if box.down_fd >= 0:
        write(box.down_fd, &one, 8)
