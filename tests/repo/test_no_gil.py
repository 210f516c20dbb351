"""Functions declared `noexcept nogil` never take the GIL in the C that Cython writes for them.

A reactor thread that waits for the GIL stops every volume of its core. Cython takes it silently: to raise from an
`except -1 nogil` callee, or in a `with gil` block. mailbox.pyx is where the two halves meet and is left out.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "src/_native"
GENERATED = ROOT / "build/cython/src/sparrow/_native"
MEETING_PLACES = {"mailbox.pyx"}

HOT = re.compile(
    r"^[ \t]*cdef\b[^\n=#]*?\b(\w+)\s*\((?:[^()]|\([^()]*\))*\)\s*noexcept\s+nogil\s*:",
    re.MULTILINE,
)
C_FUNCTION = re.compile(
    r"^static [^\n;]*?\b(__pyx_f_\w+)\([^;{]*\) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL
)
TAKES_GIL = re.compile(
    r"PyGILState_Ensure|PyEval_RestoreThread|Py_BLOCK_THREADS|__Pyx_WriteUnraisable"
)


def hot_functions(source: str) -> list[str]:
    """Names of the functions a .pyx defines as `noexcept nogil`."""
    return HOT.findall(source)


def gil_takers(hot: list[str], generated: str) -> tuple[set[str], list[str]]:
    """Which hot functions the C has at all, and which of them take the GIL."""
    seen: set[str] = set()
    takers: list[str] = []
    for c_name, body in C_FUNCTION.findall(generated):
        for name in hot:
            if c_name.endswith(f"_{name}"):
                seen.add(name)
                if TAKES_GIL.search(body):
                    takers.append(f"{name} ({c_name})")
    return seen, takers


def test_hot_functions_take_no_gil() -> None:
    if not GENERATED.exists():
        pytest.skip("needs the C that Cython wrote (make native)")
    checked = 0
    for path in sorted(NATIVE.rglob("*.pyx")):
        if path.name in MEETING_PLACES:
            continue
        hot = hot_functions(path.read_text())
        generated = GENERATED / path.relative_to(NATIVE).with_suffix(".c")
        if not hot:
            continue
        seen, takers = gil_takers(hot, generated.read_text())
        assert takers == [], f"{path.relative_to(ROOT)}: these wait for the GIL on a reactor thread"
        assert seen == set(hot), (
            f"{path.relative_to(ROOT)}: not found in its C: {sorted(set(hot) - seen)}"
        )
        checked += len(seen)
    assert checked > 0


SAMPLE = """
cdef int callee(int x) except -1 nogil:
    if x:
        with gil:
            raise ValueError
    return 0

cdef int clean(int x, int (*f)(int) noexcept nogil) noexcept nogil:
    return f(x + 1)

cdef void taker(
    int x,
) noexcept nogil:
    with gil:
        print(x)

cdef void raiser(int x) noexcept nogil:
    callee(x)

def use(int x):
    clean(x, NULL)
    taker(x)
    raiser(x)
"""


def test_the_check_finds_both_ways_to_take_it(tmp_path: Path) -> None:
    from Cython.Compiler.Main import compile as cython_compile

    (tmp_path / "sample.pyx").write_text(SAMPLE)
    cython_compile(str(tmp_path / "sample.pyx"), language_level=3)
    hot = hot_functions(SAMPLE)
    assert hot == ["clean", "taker", "raiser"]
    seen, takers = gil_takers(hot, (tmp_path / "sample.c").read_text())
    assert seen == set(hot)
    assert [taker.split()[0] for taker in takers] == ["taker", "raiser"]
