#!/bin/sh
# Install packages through apt if that is possible here without asking anybody; exit 1 when it is not.
set -eu
command -v apt-get >/dev/null || exit 1
if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root=sudo
else
    exit 1
fi
echo "setup: apt-get install $*" >&2
export DEBIAN_FRONTEND=noninteractive
install() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null </dev/null; }
# The package lists may be old or, on a fresh machine, not there at all.
install "$@" 2>/dev/null || { $as_root apt-get update -qq </dev/null >/dev/null && install "$@"; }
