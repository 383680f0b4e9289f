#!/usr/bin/env bash
# Make .venv what requirements.lock says. Does nothing when it already is.
#   usage: scripts/bootstrap.sh [python]        (default: python3.11)
set -euo pipefail
cd "$(dirname "$0")/.."
python="${1:-python3.11}"
stamp=.venv/.installed
wanted="$(cat requirements.lock pyproject.toml scripts/bootstrap.sh | sha256sum | cut -d' ' -f1) $PWD"

if [ -x .venv/bin/python ] && [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
    exit 0
fi
if ! command -v "$python" >/dev/null; then
    echo "setup: $python is not here. On Debian: sudo apt-get install python3.11 python3.11-venv git make libgomp1" >&2
    exit 1
fi
if ! .venv/bin/python -c 'import sys; raise SystemExit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
    echo "setup: new virtual environment in .venv" >&2
    rm -rf .venv
    "$python" -m venv .venv || {
        echo "setup: '$python -m venv' failed. On Debian: sudo apt-get install python3.11-venv" >&2
        exit 1
    }
fi
rm -f "$stamp"
# uv is in the lock as well, so that even the installer is installed by hash.
awk '/^[^ #]/ {wanted = /^uv==/} wanted' requirements.lock >.venv/uv.lock
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement .venv/uv.lock
echo "setup: $(grep -c '^[^ #]' requirements.lock) packages by hash from requirements.lock" >&2
.venv/bin/uv pip sync --quiet --python .venv/bin/python --require-hashes requirements.lock
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --no-build-isolation --editable .
echo "$wanted" >"$stamp"
