"""Status codes of failed requests. Source: NVMe base 2.0, 3.3.3.2.1; 8.1 (ANA)."""

from libc.stdint cimport uint32_t

from sparrow._native.layout cimport (
    SP_NVME_COMPARE, SP_NVME_READ, SP_NVME_SC_ANA_INACCESSIBLE, SP_NVME_SC_ANA_TRANSITION, SP_NVME_SC_CAPACITY,
    SP_NVME_SC_RESERVATION,
    SP_NVME_SC_DNR, SP_NVME_SC_INTERNAL, SP_NVME_SC_INTERRUPTED, SP_NVME_SC_RANGE, SP_NVME_SC_READ_ERROR,
    SP_NVME_VERIFY,
)
from sparrow._native.replication.promises cimport promise_stands
from sparrow._native.sys cimport EBUSY, EINVAL, EIO, ENOMEM, ENOSPC, EPERM, ESTALE
from sparrow._native.volume cimport Volume


cdef uint32_t status_of(const Volume *volume, uint32_t opcode, int rc) noexcept nogil:
    if rc == -ESTALE:
        return path_status(volume)
    if rc == -EPERM:
        return SP_NVME_SC_RESERVATION | SP_NVME_SC_DNR
    if rc == -ENOSPC:
        return SP_NVME_SC_CAPACITY
    if rc == -EINVAL:
        return SP_NVME_SC_RANGE | SP_NVME_SC_DNR
    if rc == -ENOMEM or rc == -EBUSY:
        return SP_NVME_SC_INTERRUPTED
    if rc == -EIO and not volume.condemned and (
        opcode == SP_NVME_READ or opcode == SP_NVME_COMPARE or opcode == SP_NVME_VERIFY
    ):
        return SP_NVME_SC_READ_ERROR
    return SP_NVME_SC_INTERNAL | SP_NVME_SC_DNR


cdef uint32_t path_status(const Volume *volume) noexcept nogil:
    """Inaccessible while a promise given to a living primary runs: that path is the one to use. Otherwise Transition,
    after which hosts look at the ANA log again by themselves within ANATT."""
    if promise_stands(volume):
        return SP_NVME_SC_ANA_INACCESSIBLE
    return SP_NVME_SC_ANA_TRANSITION
