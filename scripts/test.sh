#!/usr/bin/env bash
# Everything that must hold: lint, format, types, tests (in two processes; those that share a Ray cluster in one).
# With arguments only pytest, and they go to it.
#
#   bash scripts/test.sh                       all four, each to its end
#   bash scripts/test.sh tests/test_config.py -k recipe
#
# TRIPLETAIL_DATA names the development corpora; tests that measure on them skip, and say so, where they are absent.
set -euo pipefail
cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null
bash scripts/setup.sh sample,dev
export HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0
if [ $# -gt 0 ]; then
  exec .venv/bin/python -m pytest "$@"
fi

failed=()
check() {
  local label=$1 begun=$SECONDS
  shift
  echo "test: $label ..." >&2
  if .venv/bin/python -m "$@"; then
    echo "test: $label: passed, $((SECONDS - begun)) s" >&2
  else
    echo "test: $label: FAILED, $((SECONDS - begun)) s" >&2
    failed+=("$label")
  fi
}

check "lint" ruff check .
check "format" ruff format --check .
check "types" mypy
check "tests" pytest -n 2 --dist loadgroup
if [ ${#failed[@]} -gt 0 ]; then
  echo "test: FAILED: ${failed[*]}" >&2
  exit 1
fi
echo "test: all passed" >&2
