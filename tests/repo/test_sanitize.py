"""What the sanitizers say is counted when it is about our code, and only then."""

from __future__ import annotations

from pathlib import Path

from tools.sanitize import findings, update

ERROR = """
=================================================================
==7==ERROR: AddressSanitizer: heap-use-after-free on address 0x60 at pc 0x7f bp 0x7f sp 0x7f
READ of size 8 at 0x60 thread T3
    #0 0x7f0 in __pyx_f_block_submit build/cython/src/sparrow/_native/block.c:17
"""
LEAKS = """
=================================================================
==7==ERROR: LeakSanitizer: detected memory leaks

Direct leak of 3608 byte(s) in 11 object(s) allocated from:
    #0 0x7f1 in __interceptor_calloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:77
    #1 0x7f2 in __pyx_f_command_new build/cython/src/sparrow/_native/control/command.c:1530
    #2 0x7f3 in __pyx_f_do_open build/cython/src/sparrow/_native/control/open.c:1700

Direct leak of 64 byte(s) in 1 object(s) allocated from:
    #0 0x7f1 in __interceptor_malloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:69
    #1 0x7f4 in _PyObject_GC_NewVar Objects/object.c:100
    #2 0x7f2 in __pyx_pw_drain build/cython/src/sparrow/_native/core.c:1530

Indirect leak of 8 byte(s) in 1 object(s) allocated from:
    #0 0x7f1 in realloc ../../../../src/libsanitizer/asan/asan_malloc_linux.cpp:85
    #1 0x7f5 in list_resize Objects/listobject.c:78

SUMMARY: AddressSanitizer: 3680 byte(s) leaked in 13 allocation(s).
"""


def test_every_error_counts() -> None:
    assert list(findings(ERROR)) == [ERROR]


def test_of_leaks_only_what_the_core_asked_for_counts() -> None:
    (found,) = findings(LEAKS)
    assert "command_new" in found
    assert "_PyObject_GC_NewVar" not in found


def test_an_empty_report_is_none() -> None:
    assert list(findings("\n")) == []


def test_the_copy_becomes_like_the_tree_and_keeps_what_was_built(tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    (tree / "a").mkdir(parents=True)
    (tree / "a/one.pyx").write_text("one")
    (tree / "a/two.pyx").write_text("two")
    (tree / "a/ours.so").write_text("not sanitized")
    (tree / "link").symlink_to("a")
    update(tree, copy)
    assert (copy / "link").is_symlink()
    assert not (copy / "a/ours.so").exists()
    (copy / "a/one.so").write_text("built")
    untouched = (copy / "a/one.pyx").stat().st_mtime_ns
    (tree / "a/two.pyx").unlink()
    (tree / "a/three.pyx").write_text("three")
    update(tree, copy)
    assert sorted(path.name for path in (copy / "a").iterdir()) == [
        "one.pyx",
        "one.so",
        "three.pyx",
    ]
    assert (copy / "a/one.pyx").stat().st_mtime_ns == untouched
