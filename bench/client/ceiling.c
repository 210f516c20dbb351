/* An NBD server that keeps its export in memory: the ceiling of `make bench`, what this machine lets any NBD server do.
 *
 *   ceiling --port P --size BYTES
 *
 * One thread, one io_uring (DEFER_TASKRUN), one buffer of requests and one of replies per connection. All requests that
 * arrived together are answered in one send; a wake-up is one system call that submits and waits. Nothing is durable: a
 * FLUSH and the FUA flag are answered at once. NBD_OPT_EXPORT_NAME only, simple replies, requests up to 256 KiB
 * (the NBD protocol text, "Baseline"). For measurements: it trusts its clients and ends when one breaks the protocol.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <liburing.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { REQUEST = 28, REPLY = 16, LENGTH_MAX = 1 << 18, IN_BYTES = 1 << 20, OUT_BYTES = 1 << 23 };
enum { READ, WRITE, DISC, FLUSH };
enum { ACCEPTED = 0, RECEIVED = 1, SENT = 2 };

struct connection {
    int fd, ready;         /* ready: the negotiation is over */
    size_t have;           /* bytes of `in` */
    size_t out, out_sent;  /* bytes of `out`, and how many of them the socket has taken */
    int sending, starved;  /* starved: no room for replies, so nothing is received */
    int over;              /* the client has gone; what is being sent is waited for */
    uint8_t *in, *reply;
};

static struct io_uring ring;
static uint8_t *memory;
static uint64_t memory_bytes;
static int listener;

static void fail(const char *what, int error)
{
    fprintf(stderr, "ceiling: %s: %s\n", what, strerror(error));
    exit(1);
}

static struct io_uring_sqe *take(struct connection *c, uint64_t what)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    if (sqe == NULL) {
        io_uring_submit(&ring);
        sqe = io_uring_get_sqe(&ring);
    }
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)c | what);
    return sqe;
}

static void receive(struct connection *c)
{
    struct io_uring_sqe *sqe = take(c, RECEIVED);
    io_uring_prep_recv(sqe, c->fd, c->in + c->have, IN_BYTES - c->have, 0);
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)c | RECEIVED);
}

static void send_replies(struct connection *c)
{
    struct io_uring_sqe *sqe;
    if (c->sending || c->out_sent == c->out)
        return;
    sqe = take(c, SENT);
    io_uring_prep_send(sqe, c->fd, c->reply + c->out_sent, c->out - c->out_sent, MSG_NOSIGNAL);
    io_uring_sqe_set_data64(sqe, (uint64_t)(uintptr_t)c | SENT);
    c->sending = 1;
}

static void accept_next(void)
{
    struct io_uring_sqe *sqe = take(NULL, ACCEPTED);
    io_uring_prep_accept(sqe, listener, NULL, NULL, 0);
    io_uring_sqe_set_data64(sqe, ACCEPTED);
}

static void end(struct connection *c)
{
    close(c->fd);
    munmap(c->in, IN_BYTES);
    munmap(c->reply, OUT_BYTES);
    free(c);
}

static void *pages(size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        fail("memory", errno);
    return at;
}

static void begin(int fd)
{
    struct connection *c = calloc(1, sizeof *c);
    if (c == NULL)
        fail("memory", errno);
    c->fd = fd;
    c->in = pages(IN_BYTES);
    c->reply = pages(OUT_BYTES);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    memcpy(c->reply, "NBDMAGICIHAVEOPT\0\3", 18);
    c->out = 18;
    send_replies(c);
    receive(c);
}

/* The client's flags and NBD_OPT_EXPORT_NAME: 4 + 16 bytes and a name that is not looked at. */
static size_t negotiate(struct connection *c)
{
    uint32_t option, name;
    uint64_t size = htobe64(memory_bytes);
    uint16_t flags = htobe16(1 | 4 | 8); /* HAS_FLAGS, SEND_FLUSH, SEND_FUA */
    if (c->have < 20)
        return 0;
    memcpy(&option, c->in + 12, 4);
    memcpy(&name, c->in + 16, 4);
    if (be32toh(option) != 1)
        fail("another option than NBD_OPT_EXPORT_NAME", EPROTO);
    if (c->have < 20 + be32toh(name))
        return 0;
    memcpy(c->reply + c->out, &size, 8);
    memcpy(c->reply + c->out + 8, &flags, 2);
    c->out += 10;
    c->ready = 1;
    return 20 + be32toh(name);
}

/* One request of `left` bytes at `at`: how many it takes; 0 when more must come, or when there is no room to answer. */
static size_t answer(struct connection *c, const uint8_t *at, size_t left)
{
    uint16_t type;
    uint64_t offset;
    uint32_t length;
    if (left < REQUEST)
        return 0;
    memcpy(&type, at + 6, 2);
    memcpy(&offset, at + 16, 8);
    memcpy(&length, at + 24, 4);
    type = be16toh(type), offset = be64toh(offset), length = be32toh(length);
    if (length > LENGTH_MAX || offset + length > memory_bytes || type > FLUSH || type == DISC)
        return SIZE_MAX;
    if (type == WRITE && left < REQUEST + length)
        return 0;
    if (c->out + REPLY + (type == READ ? length : 0) > OUT_BYTES) {
        c->starved = 1;
        return 0;
    }
    memcpy(c->reply + c->out, "\x67\x44\x66\x98\0\0\0\0", 8);
    memcpy(c->reply + c->out + 8, at + 8, 8);
    c->out += REPLY;
    if (type == READ) {
        memcpy(c->reply + c->out, memory + offset, length);
        c->out += length;
    } else if (type == WRITE) {
        memcpy(memory + offset, at + REQUEST, length);
        return REQUEST + length;
    }
    return REQUEST;
}

static void work(struct connection *c)
{
    size_t at = c->ready ? 0 : negotiate(c), took = 1;
    c->starved = 0;
    while (c->ready && took != 0) {
        took = answer(c, c->in + at, c->have - at);
        if (took == SIZE_MAX) {
            shutdown(c->fd, SHUT_RDWR);
            break;
        }
        at += took;
    }
    memmove(c->in, c->in + at, c->have - at);
    c->have -= at;
    send_replies(c);
    if (!c->starved)
        receive(c);
}

static void completed(struct io_uring_cqe *cqe)
{
    uint64_t data = io_uring_cqe_get_data64(cqe);
    struct connection *c = (struct connection *)(uintptr_t)(data & ~(uint64_t)3);
    if ((data & 3) == ACCEPTED) {
        if (cqe->res < 0)
            fail("accept", -cqe->res);
        begin(cqe->res);
        accept_next();
    } else if ((data & 3) == RECEIVED) {
        if (cqe->res <= 0) {
            c->over = 1;
            if (!c->sending)
                end(c);
            return;
        }
        c->have += (size_t)cqe->res;
        work(c);
    } else {
        c->sending = 0;
        c->out_sent += cqe->res > 0 ? (size_t)cqe->res : 0;
        if (c->over) {
            end(c);
            return;
        }
        if (cqe->res < 0)
            return; /* the receive hears of it too */
        if (c->out_sent == c->out)
            c->out = c->out_sent = 0;
        send_replies(c);
        if (c->starved && c->out == 0)
            work(c);
    }
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct io_uring_params parameters = {
        .flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_COOP_TASKRUN};
    struct io_uring_cqe *cqe;
    unsigned head, seen;
    int rc;
    if (argc != 5 || strcmp(argv[1], "--port") != 0 || strcmp(argv[3], "--size") != 0) {
        fputs("ceiling --port P --size BYTES\n", stderr);
        return 2;
    }
    memory_bytes = strtoull(argv[4], NULL, 10);
    memory = pages(memory_bytes);
    address.sin_port = htons((uint16_t)atoi(argv[2]));
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (bind(listener, (struct sockaddr *)&address, sizeof address) != 0 || listen(listener, 16) != 0)
        fail("listen", errno);
    rc = io_uring_queue_init_params(256, &ring, &parameters);
    if (rc < 0)
        fail("io_uring", -rc);
    accept_next();
    for (;;) {
        rc = io_uring_submit_and_wait(&ring, 1);
        if (rc < 0 && rc != -EINTR)
            fail("io_uring_enter", -rc);
        seen = 0;
        io_uring_for_each_cqe(&ring, head, cqe) {
            seen++;
            completed(cqe);
        }
        io_uring_cq_advance(&ring, seen);
    }
}
