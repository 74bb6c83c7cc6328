#!/usr/bin/env bash
# The default checks: ruff, then every test that is not marked slow, in the environment .venv (made here if missing).
# Six minutes on two idle cores: what is compiled is not optimised (tests/conftest.py); see .ci/run for what users get.
#
#   bash launch/test.sh                          everything
#   bash launch/test.sh tests/cpab -k inverse    further arguments go to pytest
#   TEST_PROCESSES=0 bash launch/test.sh         tests in one process (default: 2)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

make_venv .venv requirements-dev.txt
failures=0
.venv/bin/ruff check . || failures=1
.venv/bin/ruff format --check . || failures=1
if ((failures)); then
  echo "test: ruff found something; '.venv/bin/ruff check --fix . && .venv/bin/ruff format .' fixes most of it" >&2
fi
# Bytecode is kept whatever the shell says: both processes, and every one that a test starts, would compile each file anew.
unset PYTHONDONTWRITEBYTECODE
# Whole files go to one process, the longest first (tests/conftest.py): what a file compiles once serves all its tests.
.venv/bin/python -m pytest -m "not slow" -n "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder \
  --durations=15 "$@" || failures=$?
exit "$failures"
