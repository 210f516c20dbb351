"""The generator: C, Cython and the documentation say what the Python table says."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from sparrow.formats.layout import Constant, Field, Layout
from tools import gen_layout

LAYOUT = Layout(
    "sample",
    order="le",
    size=15,
    doc="A sample.",
    fields=(
        Field("flag", "u8", "one | two"),
        Field("lsn", "u64", "position"),
        Field("pair", "u16[2]", "two"),
        Field("raw", "bytes2", "as it is"),
    ),
)
WIRE = Layout(
    "wire",
    order="be",
    size=5,
    doc="On the wire.",
    fields=(Field("length", "u24", "bytes"), Field("port", "u16", "port")),
)
MAGIC = Constant("sample_magic", 0x1122334455667788, "first bytes")


def compile_c(folder: Path, header: str, body: str) -> ctypes.CDLL:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler (apt-get install gcc)")
    (folder / "layout.h").write_text(header)
    (folder / "t.c").write_text('#include "layout.h"\n' + body)
    command = [compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", "t.so", "t.c"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return ctypes.CDLL(str(folder / "t.so"))


def test_c_reads_what_python_packed(tmp_path: Path) -> None:
    library = compile_c(
        tmp_path,
        gen_layout.render_header([LAYOUT, WIRE], [MAGIC]),
        """
        uint64_t lsn(struct sp_sample *p) { return p->lsn + p->pair[1]; }
        uint32_t length(struct sp_wire *p) { return sp_be24_get(p->length); }
        void set_port(struct sp_wire *p) { p->port = sp_be16_make(0x0102); }
        uint64_t magic(void) { return SP_SAMPLE_MAGIC; }
        int offset(void) { return SP_SAMPLE_AT_PAIR * 100 + SP_SAMPLE_SIZE; }
        """,
    )
    library.lsn.restype = library.magic.restype = ctypes.c_uint64
    packed = LAYOUT.pack({"flag": 1, "lsn": 2**40, "pair": (1, 2), "raw": b"ab"})
    assert library.lsn(packed) == 2**40 + 2
    assert library.magic() == MAGIC
    assert library.offset() == 9 * 100 + 15
    wire = ctypes.create_string_buffer(WIRE.pack({"length": 0x010203, "port": 0}), 5)
    assert library.length(wire) == 0x010203
    library.set_port(wire)
    assert WIRE.unpack(wire.raw).number("port") == 0x0102


def test_a_missed_swap_does_not_compile(tmp_path: Path) -> None:
    header = gen_layout.render_header([WIRE], [])
    with pytest.raises(subprocess.CalledProcessError):
        compile_c(tmp_path, header, "unsigned port(struct sp_wire *p) { return p->port; }")


def test_a_wrong_offset_does_not_compile(tmp_path: Path) -> None:
    header = gen_layout.render_header([LAYOUT], [])
    wrong = header.replace(
        "offsetof(struct sp_sample, pair) == 9", "offsetof(struct sp_sample, pair) == 10"
    )
    assert wrong != header
    with pytest.raises(subprocess.CalledProcessError):
        compile_c(tmp_path, wrong, "int x;")


def test_the_documentation_has_every_field_with_its_offset() -> None:
    page = gen_layout.render_doc(gen_layout, [LAYOUT], [MAGIC])
    assert "| 9 | 4 | u16[2] | `pair` | two |" in page
    assert "one \\| two" in page
    assert "`0x1122334455667788`" in page


def test_cython_declarations_use_the_wrapper_types() -> None:
    pxd = gen_layout.render_pxd([LAYOUT, WIRE], [MAGIC])
    assert "        sp_be24 length\n" in pxd
    assert "        uint16_t pair[2]\n" in pxd
    assert "    const uint64_t SP_SAMPLE_MAGIC\n" in pxd
