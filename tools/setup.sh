#!/usr/bin/env bash
# Makes .venv with everything that pyproject.toml and constraints.txt name. `make` calls it; the stamp comes last, so an
# interrupted installation is never taken for a finished one.
#
# PYTHON, CC, CXX and CPATH are heeded. What the system lacks is installed with apt-get where that needs no question.
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/installed
NEWEST_FIRST=(python3.13 python3.12 python3.11 python3)

say() { printf '==> %s\n' "$*"; }
stop() { printf 'error: %s\n' "$*" >&2; exit 1; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# Candidates are run, not only looked up: a version manager's shim may be there without the version.
find_python() {
    local candidate
    if [ -n "${PYTHON:-}" ]; then
        is_new_enough "$PYTHON" || stop "PYTHON=$PYTHON does not run, or is older than 3.11"
        echo "$PYTHON"
        return
    fi
    for candidate in "${NEWEST_FIRST[@]}"; do
        if is_new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    stop "Python 3.11 or newer is needed and was not found; install it, or name one: make PYTHON=/path/to/python3"
}

compiles() { # LANGUAGE LINK_FLAGS... : whether the program on standard input can be built
    local language=$1 compiler=${CC:-cc}
    shift
    [ "$language" = c ] || compiler=${CXX:-c++}
    $compiler -x "$language" - -o "$scratch/probe" "$@" >/dev/null 2>&1
}

# fastecdsa, which libp2p needs, is compiled against GMP and Python.
has_gmp() { compiles c -lgmp <<<$'#include <gmp.h>\nint main(void) { mpz_t n; mpz_init(n); return 0; }'; }
has_compiler() { compiles c++ <<<$'#include <string>\nint main() { return std::string().size(); }'; }
has_venv() { "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; }
has_headers() { [ -e "$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; }

# Sets `missing` to Debian's names of what is not here.
look() {
    missing=()
    has_compiler || missing+=(g++)
    has_gmp || missing+=(libgmp-dev)
    has_headers || missing+=("python$version-dev")
    has_venv || missing+=("python$version-venv")
}

install_missing() {
    local as=() sudo=
    [ "$(id -u)" = 0 ] || { as=(sudo -n) sudo="sudo "; }
    local line="${sudo}apt-get update && ${sudo}apt-get install -y ${missing[*]}"
    command -v apt-get >/dev/null || stop "install these (Debian's names), then make again: ${missing[*]}"
    if [ -n "$sudo" ] && ! sudo -n true 2>/dev/null; then
        stop "these are missing: ${missing[*]}. Type this line, then make again:"$'\n\n'"    $line"
    fi
    say "installing ${missing[*]} with apt-get"
    if ! get_packages; then
        say "the package lists may be old: apt-get update"
        { "${as[@]}" apt-get update && get_packages; } ||
            stop "apt-get could not install ${missing[*]}. Type this line to see why:"$'\n\n'"    $line"
    fi
    look
    [ ${#missing[@]} = 0 ] || stop "still missing after apt-get: ${missing[*]}; is CC, CXX, CPATH or PYTHON set?"
}

get_packages() {
    "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

make_venv() {
    if "$VENV/bin/python" -m pip --version >/dev/null 2>&1 && is_new_enough "$VENV/bin/python"; then return; fi
    rm -rf "$VENV"
    say "making $VENV with Python $version"
    "$python" -m venv "$VENV"
}

install_packages() {
    local bar=off
    [ -t 1 ] && bar=on
    say "installing packages; llama.cpp is compiled here, which takes some minutes the first time"
    PIP_DISABLE_PIP_VERSION_CHECK=1 "$VENV/bin/python" -m pip install --no-input --progress-bar "$bar" \
        --constraint constraints.txt --editable '.[node,gateway,postgres,speech,audio,test]' ||
        stop "pip could not install the packages: its lines above say why; make again goes on from here"
}

python=$(find_python)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rm -f "$STAMP"
look
[ ${#missing[@]} = 0 ] || install_missing
make_venv
install_packages
pwd -P >"$STAMP"
say "ready"
