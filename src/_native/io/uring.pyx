"""The io table on the kernel's ring: every function queues one SQE, `turn` submits and reaps."""

from libc.stdint cimport int32_t, uint32_t, uint64_t

from sparrow._native.io.ops cimport Io, Op
from sparrow._native.sys cimport (
    CLOCK_BOOTTIME, CLOCK_MONOTONIC_RAW, EAGAIN, EBUSY, EINTR, ETIME, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE,
    IPPROTO_TCP, MSG_NOSIGNAL, SHUT_RDWR, SYNC_FILE_RANGE_WRITE, TCP_NODELAY, close, iovec, msghdr, setsockopt,
    shutdown, sp_assert, sp_clock_ns,
)
from sparrow._native.uring cimport (
    IORING_FSYNC_DATASYNC, IORING_TIMEOUT_ABS, IORING_TIMEOUT_BOOTTIME, RWF_DSYNC, __kernel_timespec, io_uring,
    io_uring_cq_advance, io_uring_cqe, io_uring_enable_rings, io_uring_get_sqe, io_uring_peek_batch_cqe,
    io_uring_prep_cancel64, io_uring_prep_fallocate, io_uring_prep_fsync, io_uring_prep_read, io_uring_prep_readv2,
    io_uring_prep_recv, io_uring_prep_sendmsg, io_uring_prep_sync_file_range, io_uring_prep_timeout,
    io_uring_prep_writev2, io_uring_sqe, io_uring_sqe_set_data64, io_uring_submit, io_uring_submit_and_wait,
)

cdef enum:
    REAP_MAX = 128


cdef inline io_uring_sqe *queue(Io *io, Op *op) noexcept nogil:
    """A free SQE carrying the Op; a full queue is submitted first, which empties it."""
    cdef io_uring *ring = <io_uring *>io.impl
    cdef io_uring_sqe *sqe = io_uring_get_sqe(ring)
    cdef int tries = 0
    while sqe == NULL:
        io_uring_submit(ring)
        sqe = io_uring_get_sqe(ring)
        tries += 1
        sp_assert(tries < 1000, b"submission queue does not drain")
    if op != NULL:
        sp_assert(not op.busy, b"an Op is submitted twice")
        op.busy = True
    return sqe


cdef void ring_read(Io *io, Op *op, int fd, iovec *iov, uint32_t count, uint64_t offset) noexcept nogil:
    cdef io_uring_sqe *sqe = queue(io, op)
    io_uring_prep_readv2(sqe, fd, iov, count, offset, 0)
    io_uring_sqe_set_data64(sqe, <uint64_t>op)


cdef void ring_write(Io *io, Op *op, int fd, iovec *iov, uint32_t count, uint64_t offset, bint dsync) noexcept nogil:
    cdef io_uring_sqe *sqe = queue(io, op)
    io_uring_prep_writev2(sqe, fd, iov, count, offset, RWF_DSYNC if dsync else 0)
    io_uring_sqe_set_data64(sqe, <uint64_t>op)


cdef void ring_datasync(Io *io, Op *op, int fd) noexcept nogil:
    cdef io_uring_sqe *sqe = queue(io, op)
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC)
    io_uring_sqe_set_data64(sqe, <uint64_t>op)


cdef void ring_punch(Io *io, Op *op, int fd, uint64_t offset, uint64_t length) noexcept nogil:
    cdef io_uring_sqe *sqe = queue(io, op)
    # The kernel gives every fallocate to a worker thread of the ring.
    io_uring_prep_fallocate(sqe, fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length)
    io_uring_sqe_set_data64(sqe, <uint64_t>op)


cdef void ring_behind(Io *io, Op *op, int fd, uint64_t offset, uint64_t length) noexcept nogil:
    cdef io_uring_sqe *sqe = queue(io, op)
    # Likewise: always a worker's.
    io_uring_prep_sync_file_range(sqe, fd, <uint32_t>length, offset, SYNC_FILE_RANGE_WRITE)
    io_uring_sqe_set_data64(sqe, <uint64_t>op)


cdef void ring_recv(Io *io, Op *op, int fd, void *data, uint32_t length) noexcept nogil:
    cdef io_uring_sqe *sqe = queue(io, op)
    io_uring_prep_recv(sqe, fd, data, length, 0)
    io_uring_sqe_set_data64(sqe, <uint64_t>op)


cdef void ring_send(Io *io, Op *op, int fd, msghdr *msg) noexcept nogil:
    cdef io_uring_sqe *sqe = queue(io, op)
    io_uring_prep_sendmsg(sqe, fd, msg, MSG_NOSIGNAL)
    io_uring_sqe_set_data64(sqe, <uint64_t>op)


cdef void ring_wake_at(Io *io, Op *op, uint64_t boot_ns) noexcept nogil:
    cdef io_uring_sqe *sqe = queue(io, op)
    cdef __kernel_timespec ts
    ts.tv_sec = <long long>(boot_ns // 1000000000)
    ts.tv_nsec = <long long>(boot_ns % 1000000000)
    io_uring_prep_timeout(sqe, &ts, 0, IORING_TIMEOUT_ABS | IORING_TIMEOUT_BOOTTIME)
    io_uring_sqe_set_data64(sqe, <uint64_t>op)
    # The kernel reads `ts` when it takes the SQE, so it is handed over before the frame is left.
    io_uring_submit(<io_uring *>io.impl)


cdef void ring_read_event(Io *io, Op *op, int fd, uint64_t *value) noexcept nogil:
    cdef io_uring_sqe *sqe = queue(io, op)
    io_uring_prep_read(sqe, fd, value, 8, 0)
    io_uring_sqe_set_data64(sqe, <uint64_t>op)


cdef void ring_cancel(Io *io, Op *op) noexcept nogil:
    cdef io_uring_sqe *sqe
    if not op.busy:
        return
    sqe = queue(io, NULL)
    io_uring_prep_cancel64(sqe, <uint64_t>op, 0)
    io_uring_sqe_set_data64(sqe, 0)


cdef void ring_shutdown(Io *io, int fd) noexcept nogil:
    shutdown(fd, SHUT_RDWR)


cdef void ring_close(Io *io, int fd) noexcept nogil:
    close(fd)


cdef void ring_no_delay(Io *io, int fd) noexcept nogil:
    cdef int one = 1
    # Of a socket pair it is refused, which changes nothing: those do not wait for more bytes.
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(int))


cdef uint64_t ring_boot_ns(Io *io) noexcept nogil:
    return sp_clock_ns(CLOCK_BOOTTIME)


cdef uint64_t ring_raw_ns(Io *io) noexcept nogil:
    return sp_clock_ns(CLOCK_MONOTONIC_RAW)


cdef int ring_turn(Io *io, bint wait) noexcept nogil:
    """One io_uring_enter at most, then every completion that is there; returns how many, or -errno."""
    cdef io_uring *ring = <io_uring *>io.impl
    cdef io_uring_cqe *cqes[REAP_MAX]
    cdef Op *ops[REAP_MAX]
    cdef int32_t results[REAP_MAX]
    cdef unsigned int count, i
    cdef int total = 0
    cdef int rc = io_uring_submit_and_wait(ring, 1 if wait else 0)
    if rc < 0 and rc != -EINTR and rc != -EAGAIN and rc != -EBUSY and rc != -ETIME:
        return rc
    while True:
        count = io_uring_peek_batch_cqe(ring, cqes, REAP_MAX)
        if count == 0:
            return total
        for i in range(count):
            ops[i] = <Op *><void *>cqes[i].user_data
            results[i] = cqes[i].res
        # Give the slots back before anything runs: a done may submit and overflow the queue otherwise.
        io_uring_cq_advance(ring, count)
        for i in range(count):
            if ops[i] != NULL:
                ops[i].busy = False
                ops[i].done(ops[i], results[i])
        total += count


cdef void uring_fill(Io *io, io_uring *ring) noexcept nogil:
    io.impl = ring
    io.read = ring_read
    io.write = ring_write
    io.datasync = ring_datasync
    io.punch = ring_punch
    io.behind = ring_behind
    io.recv = ring_recv
    io.send = ring_send
    io.wake_at = ring_wake_at
    io.read_event = ring_read_event
    io.cancel = ring_cancel
    io.shutdown = ring_shutdown
    io.close = ring_close
    io.no_delay = ring_no_delay
    io.boot_ns = ring_boot_ns
    io.raw_ns = ring_raw_ns
    io.turn = ring_turn


cdef int uring_enable(Io *io) noexcept nogil:
    return io_uring_enable_rings(<io_uring *>io.impl)
