# liburing's inline functions and the ring's structs, all nogil; nowhere else.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from sparrow._native.sys cimport iovec, msghdr


cdef extern from "liburing.h" nogil:
    struct io_uring:
        unsigned int flags
        unsigned int features
    struct io_uring_sqe:
        uint64_t user_data
        uint8_t flags
        uint32_t len
    struct io_uring_cqe:
        uint64_t user_data
        int32_t res
        uint32_t flags
    struct __kernel_timespec:
        int64_t tv_sec
        long long tv_nsec

    int io_uring_enable_rings(io_uring *ring)
    io_uring_sqe *io_uring_get_sqe(io_uring *ring)
    void io_uring_sqe_set_data64(io_uring_sqe *sqe, uint64_t data)
    void io_uring_sqe_set_flags(io_uring_sqe *sqe, unsigned int flags)
    int io_uring_submit(io_uring *ring)
    int io_uring_submit_and_wait(io_uring *ring, unsigned int wait_nr)
    unsigned int io_uring_peek_batch_cqe(io_uring *ring, io_uring_cqe **cqes, unsigned int count)
    void io_uring_cq_advance(io_uring *ring, unsigned int nr)
    int io_uring_get_events(io_uring *ring)

    void io_uring_prep_readv2(io_uring_sqe *sqe, int fd, const iovec *iov, unsigned int nr, uint64_t offset, int flags)
    void io_uring_prep_writev2(io_uring_sqe *sqe, int fd, const iovec *iov, unsigned int nr, uint64_t offset, int flags)
    void io_uring_prep_fsync(io_uring_sqe *sqe, int fd, unsigned int flags)
    void io_uring_prep_sync_file_range(io_uring_sqe *sqe, int fd, unsigned int length, uint64_t offset, int flags)
    void io_uring_prep_fallocate(io_uring_sqe *sqe, int fd, int mode, uint64_t offset, uint64_t length)
    void io_uring_prep_recv(io_uring_sqe *sqe, int fd, void *data, size_t length, int flags)
    void io_uring_prep_recvmsg(io_uring_sqe *sqe, int fd, msghdr *msg, unsigned int flags)
    void io_uring_prep_sendmsg(io_uring_sqe *sqe, int fd, const msghdr *msg, unsigned int flags)
    void io_uring_prep_read(io_uring_sqe *sqe, int fd, void *data, unsigned int length, uint64_t offset)
    void io_uring_prep_timeout(io_uring_sqe *sqe, __kernel_timespec *ts, unsigned int count, unsigned int flags)
    void io_uring_prep_cancel64(io_uring_sqe *sqe, uint64_t user_data, int flags)
    void io_uring_prep_nop(io_uring_sqe *sqe)

    unsigned int IORING_FSYNC_DATASYNC
    unsigned int IORING_TIMEOUT_ABS
    unsigned int IORING_TIMEOUT_BOOTTIME

cdef extern from "<fcntl.h>" nogil:
    pass

cdef extern from "<sys/uio.h>" nogil:
    int RWF_DSYNC
