#!/bin/sh
# Makes .venv beside this file and installs the pinned requirements into it.
# Safe to repeat: nothing is fetched when requirements.txt has not changed.
# PYTHON names the interpreter to use; python3 unless set.
set -eu
cd "$(dirname "$0")"
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(not (3, 9) <= sys.version_info[:2] <= (3, 13))'; then
    echo "install.sh: $python is missing or not Python 3.9 to 3.13; set PYTHON to one that is" >&2
    exit 1
fi
if [ -e .venv/installed ] && cmp -s requirements.txt .venv/installed; then
    echo "install.sh: .venv is up to date" >&2
    exit 0
fi
# A venv that was left half made, or made for other requirements, goes first.
rm -rf .venv
"$python" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --require-hashes --no-deps --only-binary :all: --requirement requirements.txt
cp requirements.txt .venv/installed
echo "install.sh: .venv is ready" >&2
