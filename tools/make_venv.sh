#!/bin/sh
# Make a virtual environment, if there is none, and install into it.
#   make_venv.sh FOLDER PYTHON REQUIREMENT     PYTHON may be empty: the first usable interpreter is taken
set -eu

venv=$1 wanted=$2 requirement=$3

usable() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${wanted:-python3 python3.13 python3.12 python3.11 python3.10 python}; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "No usable Python found (tried: ${wanted:-python3, python3.10 to 3.13, python})." >&2
    echo "Needed is Python 3.10 or newer with venv (Debian, Ubuntu: apt-get install python3-venv)." >&2
    echo "Choose one with: make PYTHON=/path/to/python3 ..." >&2
    exit 1
}

if ! usable "$venv/bin/python"; then
    python=$(find_python)
    echo "making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi
echo "installing $requirement and what it needs into $venv (the first time this takes a minute)"
"$venv/bin/python" -m pip install --quiet --use-pep517 --editable "$requirement"
