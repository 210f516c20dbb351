# Lists of requests. Thread: reactor.
from sparrow._native.volume cimport BlockReq, ReqList


cdef inline void list_add(ReqList *where, BlockReq *req) noexcept nogil:
    req.next = NULL
    req.prev = where.tail
    if where.tail == NULL:
        where.head = req
    else:
        where.tail.next = req
    where.tail = req
    where.count += 1


cdef inline void list_remove(ReqList *where, BlockReq *req) noexcept nogil:
    if req.prev == NULL:
        where.head = req.next
    else:
        req.prev.next = req.next
    if req.next == NULL:
        where.tail = req.prev
    else:
        req.next.prev = req.prev
    req.next = NULL
    req.prev = NULL
    where.count -= 1
