"""Builds sparrow._native._liburing: the cold surface of liburing as a cffi API-mode module.

What is here runs a handful of times in the life of a process: probe the kernel, set a ring up, tear it down.
The write path never passes through it; the reactor uses liburing's inline functions from Cython (uring.pxd).

setup.py also takes its compiler flags and the place of liburing.a from here, so that both kinds of module
are built alike. liburing is linked statically: a built wheel needs nothing on the target but glibc.
"""

import os
import platform
import subprocess
from pathlib import Path

from cffi import FFI

CDEF = """
    struct io_uring { ...; };

    struct io_uring_params {
        uint32_t sq_entries;
        uint32_t cq_entries;
        uint32_t flags;
        uint32_t features;
        ...;
    };

    struct io_uring_probe { uint8_t last_op; ...; };

    int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *params);
    void io_uring_queue_exit(struct io_uring *ring);
    int io_uring_register_files(struct io_uring *ring, const int *files, unsigned nr_files);
    struct io_uring_probe *io_uring_get_probe_ring(struct io_uring *ring);
    void io_uring_free_probe(struct io_uring_probe *probe);
    int io_uring_opcode_supported(const struct io_uring_probe *probe, int op);

    #define IORING_SETUP_CQSIZE ...
    #define IORING_SETUP_CLAMP ...
    #define IORING_SETUP_R_DISABLED ...
    #define IORING_SETUP_SUBMIT_ALL ...
    #define IORING_SETUP_COOP_TASKRUN ...
    #define IORING_SETUP_SINGLE_ISSUER ...
    #define IORING_SETUP_DEFER_TASKRUN ...

    #define IORING_FEAT_SINGLE_MMAP ...
    #define IORING_FEAT_NODROP ...
    #define IORING_FEAT_SUBMIT_STABLE ...
    #define IORING_FEAT_RW_CUR_POS ...
    #define IORING_FEAT_FAST_POLL ...
    #define IORING_FEAT_EXT_ARG ...
    #define IORING_FEAT_NATIVE_WORKERS ...
    #define IORING_FEAT_CQE_SKIP ...

    static const int IORING_OP_NOP;
    static const int IORING_OP_READV;
    static const int IORING_OP_WRITEV;
    static const int IORING_OP_FSYNC;
    static const int IORING_OP_FALLOCATE;
    static const int IORING_OP_SYNC_FILE_RANGE;
    static const int IORING_OP_READ_FIXED;
    static const int IORING_OP_WRITE_FIXED;
    static const int IORING_OP_POLL_ADD;
    static const int IORING_OP_POLL_REMOVE;
    static const int IORING_OP_SENDMSG;
    static const int IORING_OP_RECVMSG;
    static const int IORING_OP_TIMEOUT;
    static const int IORING_OP_TIMEOUT_REMOVE;
    static const int IORING_OP_ACCEPT;
    static const int IORING_OP_ASYNC_CANCEL;
    static const int IORING_OP_CONNECT;
    static const int IORING_OP_CLOSE;
    static const int IORING_OP_READ;
    static const int IORING_OP_WRITE;
    static const int IORING_OP_SEND;
    static const int IORING_OP_RECV;
    static const int IORING_OP_SHUTDOWN;
    static const int IORING_OP_MSG_RING;
    static const int IORING_OP_SEND_ZC;
    static const int IORING_OP_SENDMSG_ZC;
"""


def find_liburing_archive() -> str:
    """Where the static library is.

    Raises:
        SystemExit: liburing's development files are not installed; the message names the package.
    """
    compiler = os.environ.get("CC", "gcc").split()
    try:
        found = subprocess.run(
            [*compiler, "-print-file-name=liburing.a"], check=True, capture_output=True, text=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        raise SystemExit(
            f"no working C compiler ({compiler[0]}): apt-get install gcc, or set CC"
        ) from None
    # A compiler that does not find the file prints the bare name back.
    if not Path(found).is_absolute() or not Path(found).exists():
        raise SystemExit("liburing.a (2.3 or newer) is missing: apt-get install liburing-dev")
    return str(Path(found).resolve())


def build_flags() -> tuple[list[str], list[str], list[tuple[str, str | None]]]:
    """Compile arguments, link arguments and macros for every native module, from the SPARROW_* switches."""
    debug = os.environ.get("SPARROW_DEBUG", "") not in ("", "0")
    compile_args = ["-O0" if debug else "-O3", "-g", "-Wall", "-fno-strict-aliasing"]
    link_args: list[str] = []
    macros: list[tuple[str, str | None]] = [("_GNU_SOURCE", None)]
    if debug:
        macros.append(("SP_DEBUG", "1"))
        compile_args.append("-UNDEBUG")
    if platform.machine() == "x86_64":
        # The crc32 instruction, for CRC32C; every x86-64 server since 2008 has it.
        compile_args.append("-msse4.2")
    sanitizers = os.environ.get("SPARROW_SANITIZE", "")
    if sanitizers:
        compile_args += [
            f"-fsanitize={sanitizers}",
            "-fno-omit-frame-pointer",
            "-fno-sanitize-recover=all",
        ]
        link_args.append(f"-fsanitize={sanitizers}")
    if os.environ.get("SPARROW_COVERAGE", "") not in ("", "0"):
        compile_args.append("--coverage")
        link_args.append("--coverage")
    return compile_args, link_args, macros


def make_ffibuilder() -> FFI:
    """The builder that setup.py's cffi_modules asks for by name."""
    compile_args, link_args, macros = build_flags()
    builder = FFI()
    builder.cdef(CDEF)
    builder.set_source(
        "sparrow._native._liburing",
        "#include <liburing.h>\n",
        extra_objects=[find_liburing_archive()],
        extra_compile_args=compile_args,
        extra_link_args=link_args,
        define_macros=macros,
        # Written by setup.py; other switches mean another build.
        depends=["build/flags.txt"],
    )
    return builder


# cffi runs this file by path under this name and looks for a global.
if __name__ == "__cffi__":
    ffibuilder = make_ffibuilder()
