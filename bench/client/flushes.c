/* Durable writes to many logs at once: each flushing by itself, or sharing one flush (docs/decisions/0008).
 *
 *   flushes FOLDER FILES DEPTH single|shared SECONDS
 *
 * FILES prewritten files, on DEPTH of them one 8 KiB O_DIRECT append outstanding: on all when they are as many, else a
 * free one is drawn at random when an append is done. `single`: RWF_DSYNC. `shared`: plain writes,
 * and one fdatasync at a time, of a file that nobody writes, that answers for every write completed before it was
 * submitted. Between two logs lie as many inodes as in a pool, for ext4 without a journal writes them by blocks.
 *
 * Prints one JSON object: rate, p50 and p99 in microseconds, processor microseconds per write.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <liburing.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

enum { FILES_MAX = 512, INODES_BETWEEN = 6, BATCH = 8192, RING = 4 << 20, SAMPLES = 8 << 20, FLUSH = FILES_MAX };

static struct io_uring ring;
static int fds[FILES_MAX], flush_fd;
static off_t offsets[FILES_MAX];
static double begun[FILES_MAX];
static char *payload;
static int shared, under_way, free_count, free_files[FILES_MAX];
static unsigned long long seed = 0x9E3779B97F4A7C15u;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double cpu(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

static void die(const char *what, int error) {
    fprintf(stderr, "flushes: %s: %s\n", what, strerror(error));
    exit(1);
}

static void prepare(const char *folder, int files) {
    char path[4096];
    char *zeros;
    if (posix_memalign((void **)&zeros, 4096, RING) || posix_memalign((void **)&payload, 4096, BATCH)) die("memory", ENOMEM);
    memset(zeros, 0, RING);
    memset(payload, 7, BATCH);
    snprintf(path, sizeof path, "%s/flush", folder);
    flush_fd = open(path, O_RDWR | O_CREAT, 0600);
    if (flush_fd < 0) die(path, errno);
    for (int i = 0; i < files; i++) {
        snprintf(path, sizeof path, "%s/log%d", folder, i);
        fds[i] = open(path, O_RDWR | O_CREAT | O_DIRECT, 0600);
        if (fds[i] < 0) die(path, errno);
        for (int k = 0; k < INODES_BETWEEN; k++) {
            snprintf(path, sizeof path, "%s/log%d.%d", folder, i, k);
            close(open(path, O_RDWR | O_CREAT, 0600));
        }
        if (lseek(fds[i], 0, SEEK_END) >= RING) continue;
        if (pwrite(fds[i], zeros, RING, 0) != RING || fsync(fds[i])) die(path, errno);
    }
    free(zeros);
}

static void append(int i, double at) {
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    offsets[i] = (offsets[i] + BATCH) % RING;
    io_uring_prep_write(sqe, fds[i], payload, BATCH, offsets[i]);
    if (!shared) sqe->rw_flags = RWF_DSYNC;
    sqe->user_data = i;
    begun[i] = at;
    under_way++;
}

/* A file that nothing is outstanding on takes the place of this one. */
static int another(int i) {
    if (free_count == 0) return i;
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    int at = (int)(seed % (unsigned)free_count), drawn = free_files[at];
    free_files[at] = i;
    return drawn;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int count, char **words) {
    int written[FILES_MAX], covered[FILES_MAX], again[2 * FILES_MAX];
    int written_count = 0, covered_count = 0, flushing = 0;
    double *samples = malloc(sizeof(double) * SAMPLES);
    long done = 0;
    if (count != 6) {
        fprintf(stderr, "usage: flushes FOLDER FILES DEPTH single|shared SECONDS\n");
        return 2;
    }
    int files = atoi(words[2]);
    int depth = atoi(words[3]);
    double seconds = atof(words[5]);
    shared = !strcmp(words[4], "shared");
    if (files < 1 || files > FILES_MAX || depth < 1 || depth > files || !samples) die("FILES and DEPTH", EINVAL);
    struct io_uring_params p = {.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN};
    int rc = io_uring_queue_init_params(1024, &ring, &p);
    if (rc < 0) die("io_uring", -rc);
    prepare(words[1], files);
    double start = now(), cpu_start = cpu();
    for (int i = depth; i < files; i++) free_files[free_count++] = i;
    for (int i = 0; i < depth; i++) append(i, start);
    while (under_way || flushing) {
        struct io_uring_cqe *cqe;
        unsigned head, reaped = 0;
        int again_count = 0;
        io_uring_submit_and_wait(&ring, 1);
        double at = now();
        io_uring_for_each_cqe(&ring, head, cqe) {
            reaped++;
            if (cqe->res < 0) die("write", -cqe->res);
            int i = (int)cqe->user_data;
            if (i == FLUSH) {
                flushing = 0;
                for (int k = 0; k < covered_count; k++) {
                    if (done < SAMPLES) samples[done++] = at - begun[covered[k]];
                    again[again_count++] = covered[k];
                }
                continue;
            }
            under_way--;
            if (shared) {
                written[written_count++] = i;
            } else {
                if (done < SAMPLES) samples[done++] = at - begun[i];
                again[again_count++] = i;
            }
        }
        io_uring_cq_advance(&ring, reaped);
        for (int k = 0; k < again_count && at - start < seconds; k++) append(another(again[k]), at);
        if (shared && !flushing && written_count) {
            memcpy(covered, written, sizeof(int) * written_count);
            covered_count = written_count;
            written_count = 0;
            struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
            io_uring_prep_fsync(sqe, flush_fd, IORING_FSYNC_DATASYNC);
            sqe->user_data = FLUSH;
            flushing = 1;
        }
    }
    double took = now() - start, used = cpu() - cpu_start;
    qsort(samples, done, sizeof(double), compare);
    printf("{\"per_s\": %.0f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"cpu_us\": %.1f}\n", done / took,
           samples[done / 2] * 1e6, samples[done * 99 / 100] * 1e6, used / done * 1e6);
    return 0;
}
