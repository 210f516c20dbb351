"""Events and completions as mail to Python."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport Reactor, send_up
from sparrow._native.sys cimport memset
from sparrow._native.volume cimport Volume


cdef void event_up(Volume *volume, uint32_t kind, uint64_t a, uint64_t b, uint64_t c, uint64_t d) noexcept nogil:
    cdef Mail mail
    memset(&mail, 0, sizeof(Mail))
    mail.kind = kind
    mail.volume = volume.index
    mail.a = a
    mail.b = b
    mail.c = c
    mail.d = d
    send_up(volume.reactor, &mail)


cdef void event_data_up(Volume *volume, uint32_t kind, uint64_t a, uint8_t *data, uint64_t length) noexcept nogil:
    cdef Mail mail
    memset(&mail, 0, sizeof(Mail))
    mail.kind = kind
    mail.volume = volume.index
    mail.a = a
    mail.data = data
    mail.length = length
    send_up(volume.reactor, &mail)


cdef void done_up(
    Reactor *reactor, uint64_t token, int rc, uint64_t a, uint64_t b, uint64_t c, uint8_t *data, uint64_t length
) noexcept nogil:
    cdef Mail mail
    memset(&mail, 0, sizeof(Mail))
    mail.kind = EVENT_DONE
    mail.token = token
    mail.rc = rc
    mail.a = a
    mail.b = b
    mail.c = c
    mail.data = data
    mail.length = length
    send_up(reactor, &mail)
