#!/usr/bin/env bash
# Install the Debian packages that some tests need, where this user may; say so either way.
# Where it may not, those tests are counted and printed as not run; with CI=true a missing package is a failure.
set -euo pipefail
missing=()
command -v chromium >/dev/null || missing+=(chromium)
command -v redis-server >/dev/null || missing+=(redis-server)
[ ${#missing[@]} -eq 0 ] && exit 0

line="apt-get install --yes --no-install-recommends ${missing[*]}"
if ! command -v apt-get >/dev/null; then
    may=""
elif [ "$(id -u)" -eq 0 ]; then
    may="env"
elif sudo -n true 2>/dev/null; then
    may="sudo -n"
else
    may=""
fi
if [ -n "$may" ]; then
    echo "tests: installing Debian packages: ${missing[*]}" >&2
    log="$(mktemp)"
    if $may apt-get update >"$log" 2>&1 && $may env DEBIAN_FRONTEND=noninteractive $line >>"$log" 2>&1; then
        rm -f "$log"
        exit 0
    fi
    tail -n 20 "$log" >&2
fi
echo "tests: not installed: ${missing[*]}; type: sudo $line" >&2
[ "${CI:-}" != true ]
