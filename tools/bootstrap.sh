#!/bin/sh
# Make this checkout ready: system packages (through apt when it may), .venv, build.
#
#   tools/bootstrap.sh run    what `sparrow up` needs
#   tools/bootstrap.sh dev    the same and the tools for tests, lint and types
#
# Quick when there is nothing to do: a stamp per step, renewed when what the step reads is newer.
set -eu
cd "$(dirname "$0")/.."
goal=${1:-dev}
venv=.venv
py=$venv/bin/python
compiler=${CC:-gcc}

say() { printf '%s\n' "setup: $*" >&2; }

# newer STAMP FILE...: is the stamp missing, or a file newer than it?
newer() {
    stamp=$1
    shift
    [ -e "$stamp" ] || return 0
    [ -n "$(find "$@" -newer "$stamp" -print 2>/dev/null | head -n 1)" ]
}

deps_stale() {
    [ -x "$py" ] || return 0
    newer "$venv/.stamp-$1" pyproject.toml tools/bootstrap.sh src/sparrow/_version.py
}

native_sources() {
    find src/_native setup.py \( -name '*.py' -o -name '*.pyx' -o -name '*.pxd' -o -name '*.h' -o -name '*.c' \) "$@"
}

native_stale() {
    [ -e build/.stamp-native ] || return 0
    [ "$(cat build/.stamp-native)" = "$(build_key)" ] || return 0
    [ -n "$(native_sources -newer build/.stamp-native -print | head -n 1)" ]
}

# What a build depends on besides its sources.
build_key() {
    printf '%s %s' "$("$py" -c 'import sys; print(sys.version.split()[0])')" \
        "${SPARROW_DEBUG:-}/${SPARROW_SANITIZE:-}/${SPARROW_COVERAGE:-}/$compiler"
}

# The newest Python that has all it takes; failing that, the system's, which apt can complete; failing that, any.
find_python() {
    any=
    for name in python3.14 python3.13 python3.12 python3.11 python3 /usr/bin/python3; do
        path=$(command -v "$name" 2>/dev/null) || continue
        # Running it matters: a version manager's shim for a version that is not active does not run.
        "$path" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null || continue
        if python_has_venv "$path" && python_has_headers "$path"; then
            echo "$path"
            return
        fi
        [ -n "$any" ] && [ "$name" != /usr/bin/python3 ] || any=$path
    done
    echo "$any"
}

python_has_venv() { "$1" -c 'import venv, ensurepip' 2>/dev/null; }
python_has_headers() {
    "$1" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' 2>/dev/null
}
compiler_works() { printf '#include <stdio.h>\n' | "$compiler" -E -xc - >/dev/null 2>&1; }
has_liburing() { case $("$compiler" -print-file-name=liburing.a 2>/dev/null) in /*) return 0 ;; *) return 1 ;; esac; }

# The apt packages this machine lacks, on one line.
missing_packages() {
    compiler_works || printf 'gcc libc6-dev '
    has_liburing || printf 'liburing-dev '
    if [ -z "$python" ]; then
        printf 'python3 python3-venv python3-dev '
        return
    fi
    version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
    [ -x "$py" ] || python_has_venv "$python" || printf '%s-venv ' "$version"
    python_has_headers "$python" || printf '%s-dev ' "$version"
}

ensure_packages() {
    missing=$(missing_packages)
    [ -n "$missing" ] || return 0
    # shellcheck disable=SC2086 # a list of packages
    if ! tools/apt_install.sh $missing; then
        say "missing: ${missing% } - install them (sudo apt-get install -y ${missing% }) and run this again"
        exit 1
    fi
    python=$(find_python)
    missing=$(missing_packages)
    if [ -z "$python" ] || [ -n "$missing" ]; then
        say "needs Python 3.11 or newer with venv and headers, a C compiler and liburing; still missing: ${missing:-python3.11}"
        exit 1
    fi
}

pip_install() { "$py" -m pip install -q --disable-pip-version-check "$@"; }

if ! deps_stale "$goal" && ! native_stale; then
    exit 0
fi

mkdir -p build
exec 9>build/.lock
flock 9 2>/dev/null || true

if [ -x "$py" ] && "$py" -c '' 2>/dev/null; then
    python=$py
else
    python=$(find_python)
fi
ensure_packages

if [ ! -x "$py" ] || ! "$py" -m pip --version >/dev/null 2>&1; then
    say "making $venv with $python"
    "$python" -m venv --clear "$venv"
fi

# Stamps carry the time of the start: what is edited during a build is built by the next one.
began=build/.began
: >"$began"
stamp() { touch -r "$began" "$@"; }

if deps_stale "$goal"; then
    say "installing Python packages ($goal) and building the native core; some minutes the first time"
    # Build requirements first: the build then uses them in place, and a rebuild costs seconds.
    pip_install "setuptools>=77" "cython>=3.1,<4" "cffi>=1.17"
    extra=
    [ "$goal" = dev ] && extra='[dev]'
    pip_install --no-build-isolation -e ".$extra"
    stamp "$venv/.stamp-run"
    [ "$goal" = dev ] && stamp "$venv/.stamp-dev"
    build_key >build/.stamp-native
    stamp build/.stamp-native
fi

if native_stale; then
    say "building what changed in the native core"
    "$py" setup.py -q build_ext --inplace
    build_key >build/.stamp-native
    stamp build/.stamp-native
fi
exit 0
