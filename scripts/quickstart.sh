#!/usr/bin/env bash
# From a fresh checkout to a report: sets up .venv, then builds, mines, trains, embeds and evaluates the sample data.
#
#   bash scripts/quickstart.sh [FLAGS]     FLAGS go to `python -m scripts.run`; --help lists them
#
# Everything that it reads is in the checkout or comes from pip; models are never looked up on a hub.
set -euo pipefail
cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null
bash scripts/setup.sh sample
export HF_HUB_OFFLINE=1
exec .venv/bin/python -m scripts.run --config scripts/recipes/quickstart.yaml "$@"
