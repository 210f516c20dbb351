"""Build of the native core: every .pyx under src/_native, and the cffi module for liburing's cold surface.

Paths go through the symlink src/sparrow/_native, because Cython finds `sparrow/_native/x.pxd` by path.
Generated C goes to build/cython, never into the tree.

Environment:
    SPARROW_DEBUG=1                     -O0, SP_DEBUG defined (poisoned pools, slow invariants)
    SPARROW_SANITIZE=address,undefined  build under these sanitizers
    SPARROW_COVERAGE=1                  gcov counters
    SPARROW_BUILD_JOBS=N                compilers at once, 2 unless told otherwise
    SPARROW_ONLY=wal,pool               only modules whose path below _native starts with one of these, and no cffi
"""

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
NATIVE = Path("src/sparrow/_native")
BUILD_DIR = Path("build/cython")
JOBS = int(os.environ.get("SPARROW_BUILD_JOBS", "2"))


def load_liburing_build() -> ModuleType:
    """Import liburing_build.py by path: one place knows where liburing is and which flags are in force."""
    spec = importlib.util.spec_from_file_location("liburing_build", NATIVE / "liburing_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def remember_flags(flags: list[str]) -> str:
    """Write the flags to a file that every module depends on, touched only when they change."""
    path = Path("build/flags.txt")
    text = "\n".join([sys.version, *flags]) + "\n"
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return str(path)


def find_extensions() -> list[Extension]:
    """One Extension per .pyx, named after its path.

    Raises:
        SystemExit: no compiler-side liburing, or a folder with .pyx files is no package.
    """
    liburing_build = load_liburing_build()
    compile_args, link_args, macros = liburing_build.build_flags()
    archive = liburing_build.find_liburing_archive()
    headers = sorted(str(p) for p in NATIVE.rglob("*.h"))
    depends = [
        "setup.py",
        *headers,
        remember_flags([*compile_args, *link_args, *map(str, macros), archive]),
    ]
    extensions = []
    only = tuple(os.environ.get("SPARROW_ONLY", "").split(","))
    for source in sorted(NATIVE.rglob("*.pyx")):
        if not str(source.relative_to(NATIVE)).startswith(only):
            continue
        if not (source.parent / "__init__.py").exists():
            raise SystemExit(
                f"{source.parent} holds {source.name} but no __init__.py: add one with its docstring"
            )
        name = ".".join(source.relative_to("src").with_suffix("").parts)
        extensions.append(
            Extension(
                name,
                sources=[str(source)],
                depends=depends,
                # -iquote, not -I: our assert.h must not stand before the system's <assert.h>.
                define_macros=macros,
                # Python's own flags ask for this warning; C that Cython writes is full of it.
                extra_compile_args=["-iquote", str(NATIVE), "-Wno-sign-compare", *compile_args],
                extra_link_args=link_args,
                extra_objects=[archive],
            )
        )
    return extensions


CIMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+)?cimport\s+(\([^)]*\)|[^\n#]*)", re.MULTILINE)


def cimported(source: Path) -> set[Path]:
    """The .pxd files of ours that a Cython file names in its cimports, and its own."""
    found = {source.with_suffix(".pxd")}
    for package, names in CIMPORT.findall(source.read_text()):
        words = [part.split()[0] for part in names.strip("()").split(",") if part.split()]
        modules = [f"{package}.{word}" for word in words] + [package] if package else words
        found |= {Path("src", *module.split(".")).with_suffix(".pxd") for module in modules}
    return {path for path in found if path.exists()}


def drop_stale_c() -> None:
    """Remove generated C that is older than a .pxd it was made from.

    Cython follows `from a.b cimport name` to a/b.pxd but not to a/b/name.pxd, which is how most of our
    modules are cimported; without this a changed struct would leave its users compiled against the old one.
    """
    direct = {
        path: cimported(path) for pattern in ("*.pyx", "*.pxd") for path in NATIVE.rglob(pattern)
    }
    for source in NATIVE.rglob("*.pyx"):
        generated = BUILD_DIR / source.with_suffix(".c")
        if not generated.exists():
            continue
        reached: set[Path] = set()
        front = {source}
        while front:
            reached |= front
            front = set().union(*(direct[path] for path in front)) - reached
        if max(path.stat().st_mtime for path in reached) > generated.stat().st_mtime:
            generated.unlink()


def cythonized(extensions: list[Extension]) -> list[Extension]:
    """Translate to C; only modules whose .pyx or cimported .pxd changed are translated again."""
    if not extensions:
        return []
    from Cython.Build import cythonize

    drop_stale_c()
    result: list[Extension] = cythonize(  # type: ignore[no-untyped-call]
        extensions,
        build_dir=str(BUILD_DIR),
        nthreads=JOBS if len(extensions) > 1 else 0,
        language_level=3,
        include_path=[str(NATIVE)],
        compiler_directives={
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
        },
    )
    return result


class NativeBuildExt(build_ext):
    """build_ext that translates first, so that reading the package's metadata needs no working sources.

    It also starts several compilers at once under `pip install`, which cannot pass --parallel.
    """

    def finalize_options(self) -> None:
        modules: list[Any] = self.distribution.ext_modules or []
        cython = [module for module in modules if module.sources[0].endswith(".pyx")]
        others = [module for module in modules if module not in cython]
        self.distribution.ext_modules = [*cythonized(cython), *others]
        super().finalize_options()
        if self.parallel is None:
            self.parallel = JOBS


if platform.system() != "Linux":
    raise SystemExit("sparrow runs on Linux only: its core is built on io_uring")
os.chdir(ROOT)

setup(
    ext_modules=find_extensions(),
    cffi_modules=[]
    if os.environ.get("SPARROW_ONLY")
    else [f"{NATIVE}/liburing_build.py:ffibuilder"],
    cmdclass={"build_ext": NativeBuildExt},
)
