#!/usr/bin/env bash
# Feast's own offline-store suite against contrail.asof; see docs/feast-suite.md.
# Usage: scripts/feast_suite.sh FEAST_CHECKOUT [further arguments of pytest]
# All that it needs or makes lies under build/feast-suite, nothing in .venv; `make clean` removes it.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
python="$root/.venv/bin/python"
made="$root/build/feast-suite"
checkout=${1:?"give the folder of a Feast checkout"}
shift
tests="$checkout/sdk/python/tests"
if [[ ! -d "$tests/universal" ]]; then
  echo "feast-suite: $checkout is no Feast checkout: there is no $tests/universal" >&2
  exit 2
fi

# Packages that the suite imports, beside the environment; what both need is taken at the environment's version.
mkdir -p "$made"
needed="$root/tests/feast_suite/requirements.txt"
if ! cmp --silent "$needed" "$made/extras/installed.txt"; then
  rm -rf "$made/extras"
  "$python" -m pip freeze --exclude-editable >"$made/constraints.txt"
  "$python" -m pip install --quiet --disable-pip-version-check --no-warn-conflicts \
    --target "$made/extras" --constraint "$made/constraints.txt" --requirement "$needed"
  cp "$needed" "$made/extras/installed.txt"
fi

# The tests alone: beside the checkout's own feast/ they would test that one, not the one that is installed.
rm -rf "$made/suite"
mkdir -p "$made/suite"
cp -R "$tests" "$checkout/sdk/python/pytest.ini" "$made/suite/"
cd "$made/suite"
export PYTHONPATH="$made/suite:$root/tests/feast_suite:$made/extras" PYTHONDONTWRITEBYTECODE=1
export FULL_REPO_CONFIGS_MODULE=feast_suite_stores FEAST_IS_LOCAL_TEST=True
exec "$python" -m pytest --integration tests/integration/offline_store \
  tests/integration/materialization/test_universal_materialization.py \
  tests/integration/online_store/test_universal_e2e.py \
  --ignore tests/integration/offline_store/test_dqm_validation.py \
  -p no:cacheprovider -o addopts= --strict-markers -q --tb=short --disable-warnings --show-capture=no -rfs "$@"
