#!/usr/bin/env bash
# Refreshes every lock file from the ranges in pyproject.toml: one file for Python 3.11-3.13 each, with hashes.
#
#   bash launch/lock.sh                    newest versions the ranges allow
#   bash launch/lock.sh --no-upgrade       keep pins, follow pyproject.toml only
#
# Uses uv from the path, or installs it into .venv-lock. Nothing of this machine's package index goes into the files.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

uv="$(command -v uv || true)"
if [[ -z "$uv" ]]; then
  python="$(choose_python)"
  [[ -x .venv-lock/bin/uv ]] || { "$python" -m venv .venv-lock && .venv-lock/bin/python -m pip install --quiet uv; }
  uv=.venv-lock/bin/uv
fi

upgrade=(--upgrade)
if [[ "${1:-}" == --no-upgrade ]]; then
  upgrade=()
elif (($#)); then
  echo "lock: '$1': unknown option; known: --no-upgrade" >&2
  exit 2
fi

lock() {
  local output="$1"
  shift
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
    --no-emit-find-links --custom-compile-command "bash launch/lock.sh" ${upgrade[@]+"${upgrade[@]}"} \
    --output-file "$output" "$@" pyproject.toml
  echo "lock: $output, $(grep -c '==' "$output") pins"
}

lock requirements.txt
# The others repeat the pins of the first, so that an environment grows from one into another.
lock requirements-dev.txt --extra dev --constraint requirements.txt
lock requirements-cuda12.txt --extra cuda12 --constraint requirements.txt
lock requirements-cuda13.txt --extra cuda13 --constraint requirements.txt

if grep -nE -- '--(extra-)?index-url|--find-links|file://|https?://' requirements*.txt; then
  echo "lock: the lines above name a package index of this machine; remove them before committing" >&2
  exit 1
fi
