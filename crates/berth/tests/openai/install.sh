#!/bin/sh
# Makes .venv beside this file with the openai client, and the real model's beside
# its example. Safe to repeat. PYTHON names the interpreter; python3 unless set.
set -eu
cd "$(dirname "$0")"
../../../../examples/minilm/install.sh
if [ -e .venv/installed ] && cmp -s requirements.txt .venv/installed; then
    exit 0
fi
rm -rf .venv
"${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --disable-pip-version-check \
    --no-deps --only-binary :all: --requirement requirements.txt
cp requirements.txt .venv/installed
