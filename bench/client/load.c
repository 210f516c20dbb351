/* Load generator of `make bench`: one thread, some connections, on each a fixed number of requests outstanding.
 *
 *   load --proto iscsi --url iscsi://host:port/iqn/lun  |  --proto nbd --host H --port P
 *        [--export NAME] [--connections N] [--cpu N]
 *        --op read|write|cached|nothing --pattern random|sequential --block BYTES --depth N --span BYTES
 *        [--seconds S --warmup S | --once] [--spread]
 *
 * --url may be given many times: connections take the volumes in turn. With --spread there is one connection to each
 * volume, and the depth is that of all together: every request goes to a volume drawn at random. With --op nothing it
 * connects, and asks for nothing until its standard input ends.
 *
 * The same loop drives both protocols, so columns differ by server and protocol, not by client. Writes ask for
 * durability in the protocol's own way: the FUA bit of WRITE(16) (SBC-3, 5.39) or NBD_CMD_FLAG_FUA (the NBD protocol
 * text, "Transmission flags"); `cached` writes do not. --once touches the span once, in order, to fill or to warm it.
 *
 * Prints a line when all are connected, then one JSON object: counts and latencies of the measured time, `ios_all` with
 * the warm-up, the client's own CPU.
 * Exit status 1 with a sentence on stderr when the server answers with an error, ends the connection or goes silent.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <iscsi/iscsi.h>
#include <iscsi/scsi-lowlevel.h>

enum { DEPTH_MAX = 256, CONNECTIONS_MAX = 256, SILENCE_MS = 10000 };

struct connection;

struct slot {
    struct connection *connection;
    uint32_t index;        /* on its connection */
    struct slot *next;
    uint64_t offset;
    uint64_t sent_ns;
    uint8_t *data;
};

static struct {
    const char *proto, *host, *port, *export, *urls[CONNECTIONS_MAX];
    int write, durable, sequential, once, spread, nothing, cpu;
    uint32_t block, depth, connections, url_count;
    uint64_t span;
    double seconds, warmup;
} opt = {.host = "127.0.0.1", .port = "10809", .export = "", .block = 4096, .depth = 1,
         .connections = 1, .seconds = 2, .warmup = 0.3, .cpu = -1};

static uint32_t outstanding;
static uint64_t next_offset, issued, ios_all, measure_from, measure_to, seed = 0x9E3779B97F4A7C15u;
static uint32_t *latency;
static uint64_t latency_count, latency_room;
static struct rusage usage_from;
static int measuring, draining;

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static uint64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t random_u64(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed;
}

/* ---- the loop: what to ask for next, and what an answer means */

static int submit_more(void) { return !draining && !(opt.once && issued == opt.span / opt.block); }

static void fill_slot(struct slot *slot)
{
    uint64_t blocks = opt.span / opt.block;
    if (opt.sequential || opt.once) {
        slot->offset = next_offset;
        next_offset = (next_offset + opt.block) % (blocks * opt.block);
    } else {
        slot->offset = random_u64() % blocks * opt.block;
    }
    if (opt.write)  /* no two writes alike: nothing to deduplicate or to take for zeros */
        memcpy(slot->data, &(uint64_t){random_u64()}, 8);
    issued++;
    outstanding++;
    slot->sent_ns = now_ns();
}

static void answered(struct slot *slot)
{
    uint64_t now = now_ns();
    outstanding--;
    ios_all++;
    if (measuring && !draining) {
        if (latency_count == latency_room) {
            latency_room = latency_room ? 2 * latency_room : 1 << 20;
            latency = realloc(latency, latency_room * sizeof *latency);
            if (latency == NULL)
                die("no memory");
        }
        uint64_t took = now - slot->sent_ns;
        latency[latency_count++] = took > UINT32_MAX ? UINT32_MAX : (uint32_t)took;
    }
    if (opt.once)
        return;
    if (!measuring && now >= measure_from) {
        measuring = 1;
        measure_from = now;
        measure_to = now + (uint64_t)(opt.seconds * 1e9);
        getrusage(RUSAGE_SELF, &usage_from);
    } else if (measuring && !draining && now >= measure_to) {
        measure_to = now;
        draining = 1;
    }
}

/* ---- connections: each speaks one protocol, and the loop below serves all */

struct __attribute__((packed)) nbd_request {
    uint32_t magic;
    uint16_t flags, type;
    uint64_t handle, offset;
    uint32_t length;
};
struct __attribute__((packed)) nbd_reply {
    uint32_t magic, error;
    uint64_t handle;
};

struct connection {
    const char *url;
    struct slot *slots;
    struct slot *free;     /* --spread: slots that may be used, linked by `next` */
    struct iscsi_context *iscsi;
    int lun;
    uint32_t lba_bytes;
    int fd;
    uint8_t *out;          /* NBD requests not yet taken by the socket */
    size_t out_from, out_to, out_room;
    struct nbd_reply head; /* the NBD answer being received */
    size_t head_have, data_left;
};

static struct connection connections[CONNECTIONS_MAX];
static struct pollfd polled[CONNECTIONS_MAX + 1];

/* ---- iSCSI through libiscsi */

static void again(struct slot *slot);

static void iscsi_answered(struct iscsi_context *context, int status, void *command, void *private_data)
{
    struct scsi_task *task = command;
    struct slot *slot = private_data;
    (void)context;
    if (status != SCSI_STATUS_GOOD)
        die("SCSI status 0x%02x: %s", status, iscsi_get_error(slot->connection->iscsi));
    scsi_free_scsi_task(task);
    answered(slot);
    again(slot);
}

static void iscsi_submit(struct slot *slot)
{
    struct scsi_task *task;
    struct connection *c = slot->connection;
    fill_slot(slot);
    if (opt.write) {
        task = iscsi_write16_task(c->iscsi, c->lun, slot->offset / c->lba_bytes, slot->data, opt.block,
                                  (int)c->lba_bytes, 0, 0, opt.durable, 0, 0, iscsi_answered, slot);
    } else {
        task = iscsi_read16_task(c->iscsi, c->lun, slot->offset / c->lba_bytes, opt.block, (int)c->lba_bytes, 0, 0, 0,
                                 0, 0, iscsi_answered, slot);
        if (task != NULL && scsi_task_add_data_in_buffer(task, (int)opt.block, slot->data) != 0)
            die("no memory");
    }
    if (task == NULL)
        die("iSCSI request refused: %s", iscsi_get_error(c->iscsi));
}

static void iscsi_open(struct connection *c)
{
    struct iscsi_url *url;
    struct scsi_task *task;
    struct scsi_readcapacity16 *capacity;
    char name[64];
    snprintf(name, sizeof name, "iqn.2024-01.bench:load%d", (int)(c - connections));
    c->iscsi = iscsi_create_context(name);
    if (c->iscsi == NULL || (url = iscsi_parse_full_url(c->iscsi, c->url)) == NULL)
        die("%s", c->iscsi == NULL ? "no memory" : iscsi_get_error(c->iscsi));
    iscsi_set_session_type(c->iscsi, ISCSI_SESSION_NORMAL);
    iscsi_set_header_digest(c->iscsi, ISCSI_HEADER_DIGEST_NONE);
    iscsi_set_targetname(c->iscsi, url->target);
    iscsi_set_noautoreconnect(c->iscsi, 1);
    c->lun = url->lun;
    if (iscsi_full_connect_sync(c->iscsi, url->portal, url->lun) != 0)
        die("cannot log in: %s", iscsi_get_error(c->iscsi));
    task = iscsi_readcapacity16_sync(c->iscsi, c->lun);
    if (task == NULL || task->status != SCSI_STATUS_GOOD || (capacity = scsi_datain_unmarshall(task)) == NULL)
        die("READ CAPACITY failed: %s", iscsi_get_error(c->iscsi));
    c->lba_bytes = capacity->block_length;
    if ((capacity->returned_lba + 1) * c->lba_bytes < opt.span)
        die("the volume is smaller than the span");
    scsi_free_scsi_task(task);
    iscsi_destroy_url(url);
    c->fd = iscsi_get_fd(c->iscsi);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
}

static void iscsi_serve(struct connection *c, short events)
{
    if (events != 0 && iscsi_service(c->iscsi, events) < 0)
        die("the connection failed: %s", iscsi_get_error(c->iscsi));
}

/* ---- NBD, simple replies */

static uint8_t nbd_in[1 << 18];

static void exactly(int fd, int receive, void *data, size_t length)
{
    uint8_t *at = data;
    while (length > 0) {
        ssize_t n = receive ? recv(fd, at, length, 0) : send(fd, at, length, MSG_NOSIGNAL);
        if (n <= 0)
            die("NBD handshake: %s", n == 0 ? "connection ended" : strerror(errno));
        at += n;
        length -= (size_t)n;
    }
}

static void nbd_open(struct connection *c)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM}, *found;
    uint8_t hello[18], export[10], answer[20 + 256] = {0, 0, 0, 3, 'I', 'H', 'A', 'V', 'E', 'O', 'P', 'T'};
    uint64_t size;
    uint32_t name = (uint32_t)strlen(opt.export), rc;
    /* NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES, then NBD_OPT_EXPORT_NAME */
    if (name > 256)
        die("the name of the export is too long");
    memcpy(answer + 12, &(uint32_t){htobe32(1)}, 4);
    memcpy(answer + 16, &(uint32_t){htobe32(name)}, 4);
    memcpy(answer + 20, opt.export, name);
    if (getaddrinfo(opt.host, opt.port, &hints, &found) != 0)
        die("%s:%s: no such address", opt.host, opt.port);
    c->fd = socket(found->ai_family, SOCK_STREAM, 0);
    rc = c->fd < 0 ? 1 : (uint32_t)connect(c->fd, found->ai_addr, found->ai_addrlen);
    if (rc != 0)
        die("%s:%s: %s", opt.host, opt.port, strerror(errno));
    freeaddrinfo(found);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    exactly(c->fd, 1, hello, sizeof hello);
    if (memcmp(hello, "NBDMAGICIHAVEOPT", 16) != 0)
        die("no NBD server of the fixed newstyle");
    exactly(c->fd, 0, answer, 20 + name);
    exactly(c->fd, 1, export, sizeof export);
    memcpy(&size, export, 8);
    if (be64toh(size) < opt.span)
        die("the export is smaller than the span");
    if (opt.durable && !(export[9] & 8)) /* NBD_FLAG_SEND_FUA */
        die("this server takes no FUA: its writes are not durable");
    c->out_room = (size_t)opt.depth * (sizeof(struct nbd_request) + opt.block);
    c->out = malloc(c->out_room);
    if (c->out == NULL)
        die("no memory");
}

static void nbd_submit(struct slot *slot)
{
    struct nbd_request request;
    struct connection *c = slot->connection;
    fill_slot(slot);
    request = (struct nbd_request){htobe32(0x25609513), htobe16(opt.durable ? 1 : 0), htobe16(opt.write ? 1 : 0),
                                   slot->index, htobe64(slot->offset), htobe32(opt.block)};
    if (c->out_from > 0 && c->out_to + sizeof request + opt.block > c->out_room) {
        memmove(c->out, c->out + c->out_from, c->out_to - c->out_from);
        c->out_to -= c->out_from;
        c->out_from = 0;
    }
    memcpy(c->out + c->out_to, &request, sizeof request);
    c->out_to += sizeof request;
    if (opt.write) {
        memcpy(c->out + c->out_to, slot->data, opt.block);
        c->out_to += opt.block;
    }
}

static void nbd_parse(struct connection *c, const uint8_t *at, size_t have)
{
    while (have > 0) {
        size_t n;
        if (c->head_have < sizeof c->head) {
            n = sizeof c->head - c->head_have < have ? sizeof c->head - c->head_have : have;
            memcpy((uint8_t *)&c->head + c->head_have, at, n);
            c->head_have += n;
            if (c->head_have == sizeof c->head) {
                if (be32toh(c->head.magic) != 0x67446698 || c->head.handle >= opt.depth)
                    die("an answer that is none of NBD");
                if (c->head.error != 0)
                    die("NBD error %u", be32toh(c->head.error));
                c->data_left = opt.write ? 0 : opt.block;
            }
        } else {
            n = c->data_left < have ? c->data_left : have;
            memcpy(c->slots[c->head.handle].data + opt.block - c->data_left, at, n);
            c->data_left -= n;
        }
        at += n;
        have -= n;
        if (c->head_have == sizeof c->head && c->data_left == 0) {
            struct slot *slot = &c->slots[c->head.handle];
            c->head_have = 0;
            answered(slot);
            again(slot);
        }
    }
}

static void nbd_flush(struct connection *c)
{
    ssize_t n;
    if (c->out_from == c->out_to)
        return;
    n = send(c->fd, c->out + c->out_from, c->out_to - c->out_from, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno != EAGAIN)
        die("the connection failed: %s", strerror(errno));
    c->out_from += n > 0 ? (size_t)n : 0;
    if (c->out_from == c->out_to)
        c->out_from = c->out_to = 0;
}

static void nbd_serve(struct connection *c, short events)
{
    ssize_t n;
    if (events & (POLLIN | POLLHUP | POLLERR)) {
        n = recv(c->fd, nbd_in, sizeof nbd_in, MSG_DONTWAIT);
        if (n == 0)
            die("the server ended the connection");
        if (n > 0)
            nbd_parse(c, nbd_in, (size_t)n);
    }
}

/* ---- the program */

static void submit(struct slot *slot)
{
    if (slot->connection->iscsi == NULL)
        nbd_submit(slot);
    else
        iscsi_submit(slot);
}

static struct slot *draw(void)
{
    struct connection *c;
    struct slot *slot;
    do
        c = &connections[random_u64() % opt.connections];
    while (c->free == NULL);
    slot = c->free;
    c->free = slot->next;
    return slot;
}

/* A slot is free: the next request goes out on it, or with --spread to any volume. */
static void again(struct slot *slot)
{
    if (opt.spread) {
        slot->next = slot->connection->free;
        slot->connection->free = slot;
    }
    if (submit_more())
        submit(opt.spread ? draw() : slot);
}

static void read_options(int argc, char **argv)
{
    static const struct option names[] = {
        {"proto", 1, 0, 'p'},  {"url", 1, 0, 'u'},     {"host", 1, 0, 'h'},    {"port", 1, 0, 'P'},
        {"op", 1, 0, 'o'},     {"pattern", 1, 0, 'a'}, {"block", 1, 0, 'b'},   {"depth", 1, 0, 'd'},
        {"span", 1, 0, 's'},   {"seconds", 1, 0, 't'}, {"warmup", 1, 0, 'w'},  {"once", 0, 0, '1'},
        {"cpu", 1, 0, 'c'},    {"export", 1, 0, 'e'},  {"connections", 1, 0, 'n'},
        {"spread", 0, 0, 'S'}, {0, 0, 0, 0},
    };
    int name;
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case 'p': opt.proto = optarg; break;
        case 'u':
            if (opt.url_count == CONNECTIONS_MAX)
                die("at most %d volumes", CONNECTIONS_MAX);
            opt.urls[opt.url_count++] = optarg;
            break;
        case 'S': opt.spread = 1; break;
        case 'h': opt.host = optarg; break;
        case 'P': opt.port = optarg; break;
        case 'o':
            opt.nothing = strcmp(optarg, "nothing") == 0;
            opt.durable = strcmp(optarg, "write") == 0;
            opt.write = opt.durable || strcmp(optarg, "cached") == 0;
            break;
        case 'a': opt.sequential = strcmp(optarg, "sequential") == 0; break;
        case 'b': opt.block = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 'd': opt.depth = (uint32_t)strtoul(optarg, NULL, 10); break;
        case 's': opt.span = strtoull(optarg, NULL, 10); break;
        case 't': opt.seconds = strtod(optarg, NULL); break;
        case 'w': opt.warmup = strtod(optarg, NULL); break;
        case '1': opt.once = 1; break;
        case 'c': opt.cpu = atoi(optarg); break;
        case 'e': opt.export = optarg; break;
        case 'n': opt.connections = (uint32_t)strtoul(optarg, NULL, 10); break;
        default: exit(2);
        }
    }
    if (opt.proto == NULL || opt.depth < 1 || opt.depth > DEPTH_MAX || opt.block < 512 || opt.span < opt.block)
        die("--proto, --span, --block and --depth (1 to %d) are needed", DEPTH_MAX);
    if (opt.spread)
        opt.connections = opt.url_count;
    if (opt.connections < 1 || opt.connections > CONNECTIONS_MAX || (opt.once && opt.connections != 1))
        die("--connections is 1 to %d, and 1 with --once", CONNECTIONS_MAX);
}

static int by_size(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static double percentile_us(double part)
{
    return latency_count == 0 ? 0 : latency[(uint64_t)(part * (double)(latency_count - 1))] / 1e3;
}

static double cpu_s(const struct rusage *u)
{
    return (double)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) + (double)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) / 1e6;
}

static void make_slots(struct connection *c)
{
    uint32_t i, k;
    c->slots = calloc(opt.depth, sizeof *c->slots);
    for (i = 0; i < opt.depth; i++) {
        if (c->slots == NULL || posix_memalign((void **)&c->slots[i].data, 4096, opt.block) != 0)
            die("no memory");
        c->slots[i].connection = c;
        c->slots[i].index = i;
        c->slots[i].next = c->free;
        c->free = &c->slots[i];
        for (k = 0; k < opt.block / 8; k++)
            ((uint64_t *)c->slots[i].data)[k] = random_u64();
    }
}

/* Wait for any connection, serve those that have something; `also` more of `polled` are looked at for the caller. */
static void turn(int nbd, uint32_t also)
{
    uint32_t k;
    int found;
    for (k = 0; k < opt.connections; k++) {
        struct connection *c = &connections[k];
        if (nbd)
            nbd_flush(c);
        polled[k].events = nbd ? POLLIN | (c->out_from < c->out_to ? POLLOUT : 0) : (short)iscsi_which_events(c->iscsi);
    }
    found = poll(polled, opt.connections + also, also > 0 ? -1 : SILENCE_MS);
    if (found == 0)
        die("the server is silent");
    for (k = 0; found > 0 && k < opt.connections; k++) {
        if (polled[k].revents == 0)
            continue;
        if (nbd)
            nbd_serve(&connections[k], polled[k].revents);
        else
            iscsi_serve(&connections[k], polled[k].revents);
    }
}

/* Answer what servers ask of an idle client, until standard input ends. */
static void stay(int nbd)
{
    struct pollfd *input = &polled[opt.connections];
    *input = (struct pollfd){.fd = 0, .events = POLLIN};
    while (input->revents == 0)
        turn(nbd, 1);
}

int main(int argc, char **argv)
{
    struct rusage usage_to;
    double seconds;
    int nbd;
    uint32_t i, k;
    read_options(argc, argv);
    nbd = strcmp(opt.proto, "nbd") == 0;
    if (opt.cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET((unsigned)opt.cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set) != 0)
            die("cannot run on CPU %d: %s", opt.cpu, strerror(errno));
    }
    seed ^= now_ns() | 1;
    next_offset = opt.once ? 0 : random_u64() % (opt.span / opt.block) * opt.block;
    for (k = 0; k < opt.connections; k++) {
        make_slots(&connections[k]);
        connections[k].url = opt.url_count > 0 ? opt.urls[k % opt.url_count] : "";
        if (nbd)
            nbd_open(&connections[k]);
        else
            iscsi_open(&connections[k]);
        polled[k].fd = connections[k].fd;
    }
    puts("{\"connected\": true}");
    fflush(stdout);
    if (opt.nothing) {
        stay(nbd);
        return 0;
    }
    getrusage(RUSAGE_SELF, &usage_from);
    measuring = opt.once;
    measure_from = now_ns() + (opt.once ? 0 : (uint64_t)(opt.warmup * 1e9));
    for (i = 0; i < opt.depth; i++) {
        for (k = 0; k < (opt.spread ? 1 : opt.connections) && submit_more(); k++)
            submit(opt.spread ? draw() : &connections[k].slots[i]);
    }
    while (outstanding > 0)
        turn(nbd, 0);
    if (opt.once)
        measure_to = now_ns();
    getrusage(RUSAGE_SELF, &usage_to);
    seconds = (double)(measure_to - measure_from) / 1e9;
    qsort(latency, latency_count, sizeof *latency, by_size);
    printf("{\"ios\": %llu, \"ios_all\": %llu, \"seconds\": %.6f, \"iops\": %.1f, \"p50_us\": %.1f, \"p99_us\": %.1f, "
           "\"max_us\": %.1f, \"client_cpu_s\": %.6f}\n",
           (unsigned long long)latency_count, (unsigned long long)ios_all, seconds, (double)latency_count / seconds,
           percentile_us(0.5), percentile_us(0.99), percentile_us(1), cpu_s(&usage_to) - cpu_s(&usage_from));
    fflush(stdout); /* logging out is not of the load */
    for (k = 0; !nbd && k < opt.connections; k++) {
        iscsi_logout_sync(connections[k].iscsi);
        iscsi_destroy_context(connections[k].iscsi);
    }
    return 0;
}
