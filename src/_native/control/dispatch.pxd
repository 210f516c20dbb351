# Mail from Python. Thread: reactor.
from sparrow._native.mailbox cimport Mail
from sparrow._native.reactor cimport Reactor

cdef void on_mail(Reactor *reactor, Mail *mail) noexcept nogil
