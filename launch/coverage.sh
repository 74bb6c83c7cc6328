#!/usr/bin/env bash
# Line and branch coverage of cpab/, adapters/, tasks/ and the checkpoint code by the default tests of those packages.
#
#   bash launch/coverage.sh                  the table, and .cache/coverage/index.html line by line
#   bash launch/coverage.sh cpab tasks       some of them: cpab adapters tasks checkpoints
#   SLOW=1 bash launch/coverage.sh           with the tests marked slow
#
# How well the tests notice changes to those lines is another question: see `python -m tests.mutation --help`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-.venv/bin/python}"
if [[ "$python" == .venv/bin/python ]]; then
  source launch/venv.sh
  make_venv .venv requirements-dev.txt
fi
(($#)) || set -- cpab adapters tasks checkpoints
[[ -n "${SLOW:-}" ]] && chosen=() || chosen=(-m "not slow")

export COVERAGE_FILE="$PWD/.cache/coverage/data"
mkdir -p .cache/coverage
"$python" -m coverage erase
sources=()
for name in "$@"; do
  # Which files are a package's, and which tests are about it, is written once: the mutations use it too.
  IFS=$'\t' read -r files tests < <("$python" -m tests.mutation --list "$name")
  sources+=("$files")
  read -ra paths <<<"$tests"
  "$python" -m coverage run --append --branch --include="$files" -m pytest -q "${chosen[@]}" "${paths[@]}"
done
"$python" -m coverage html --quiet --directory=.cache/coverage
"$python" -m coverage report --skip-empty --precision=1 --include="$(IFS=,; echo "${sources[*]}")"
