#!/usr/bin/env bash
# Makes .venv in this checkout and installs the pinned versions into it; with nothing changed it returns at once.
#
#   bash scripts/setup.sh [EXTRAS]     EXTRAS as in pyproject.toml, comma-separated; default: sample
#
# TRIPLETAIL_PYTHON names the interpreter where the right one is not found on PATH. pip's own settings hold: an index with
# CPU builds of torch, named in PIP_EXTRA_INDEX_URL, saves nine tenths of the download.
set -euo pipefail
cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." >/dev/null
extras=${1:-sample}
pins=cluster/constraints.txt
stamp=.venv/tripletail-setup

say() { printf 'setup: %s\n' "$*" >&2; }

usable() {
  [ "$("$1" -c 'import ensurepip, sys, venv; print((3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null)" = True ]
}

find_python() {
  local name
  if [ -n "${TRIPLETAIL_PYTHON:-}" ]; then
    usable "$TRIPLETAIL_PYTHON" && echo "$TRIPLETAIL_PYTHON" && return
    say "TRIPLETAIL_PYTHON=$TRIPLETAIL_PYTHON is not Python 3.11 or 3.12 with its venv module"
    return 1
  fi
  for name in python3.11 python3.12 python3 python; do
    usable "$name" && echo "$name" && return
  done
  say "no Python 3.11 or 3.12 with its venv module on PATH; install one, or name it: TRIPLETAIL_PYTHON=/path/to/python3.11"
  return 1
}

# What the installation depends on: the pins, the requirements, and the place that the editable install points to.
state() {
  "$1" - "$pins" pyproject.toml <<'PY'
import hashlib, os, sys
digest = hashlib.sha256(os.getcwd().encode())
for name in sys.argv[1:]:
    digest.update(open(name, "rb").read())
print(digest.hexdigest()[:24])
PY
}

# Whether an installation of extras $1 has everything that extras $2 name.
covers() {
  local extra
  for extra in ${2//,/ }; do
    case ",$1," in *",$extra,"*) ;; *) return 1 ;; esac
  done
}

step() {
  local label=$1 begun=$SECONDS
  shift
  say "$label ..."
  "$@" || { say "$label: failed; the lines above say why, and the same command goes on from here"; exit 1; }
  say "$label: $((SECONDS - begun)) s"
}

held=""
if usable .venv/bin/python && [ -r "$stamp" ]; then
  read -r held_state held_extras <"$stamp" || true
  if [ "$(state .venv/bin/python)" = "$held_state" ]; then
    if covers "$held_extras" "$extras"; then exit 0; fi
    held=$held_extras,
  fi
fi

python=$(find_python) || exit 1
say "$("$python" --version) into .venv, with what $pins pins (some minutes, once)"
rm -f "$stamp"
usable .venv/bin/python || step "1/3 virtual environment" "$python" -m venv --clear .venv
pip=(.venv/bin/python -m pip install -qq --disable-pip-version-check -c "$pins")
torch=$(grep '^torch==' "$pins")
step "2/3 $torch" "${pip[@]}" "$torch"
step "3/3 tripletail[$extras]" "${pip[@]}" -e ".[$extras]"
echo "$(state .venv/bin/python) $held$extras" >"$stamp"
