#!/usr/bin/env bash
# What is slower or needs more than the default checks (launch/test.sh, which this does not repeat):
# the tests marked slow, the tests against PyTorch models, and a training run and the numerical tests on every other
# supported Python that starts here.
# Further arguments go to the pytest run of the slow tests.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
done_here=() absent=() failed=()

# Prints an interpreter of a version such as 3.12. A name on the path may be a version manager's stub that refuses to
# start, so every candidate is started; pyenv, where there is one, knows of more.
find_version() {
  local version="$1" name root
  for name in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
    if "$name" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  return 1
}

# smoke PYTHON NAME: trains, resumes, evaluates and describes a test-size model.
smoke() {
  local python="$1" workdir="$scratch/$2"
  local -x JAX_COMPILATION_CACHE_DIR="$scratch/compiled"
  "$python" -m ditask_jax.train --config=configs/smoke.py --workdir="$workdir" &&
    "$python" -m ditask_jax.train --config=configs/smoke.py --workdir="$workdir" &&
    "$python" -m ditask_jax.evaluate --workdir="$workdir" &&
    "$python" -m ditask_jax.describe --config=configs/pascal_swin_tiny.py --json >/dev/null
}

attempt() {
  local name="$1"
  shift
  echo "== $name"
  if "$@"; then done_here+=("$name"); else failed+=("$name"); fi
}

slow_tests() {
  local code=0
  .venv/bin/python -m pytest -m slow --durations=15 "$@" || code=$?
  # pytest's code 5: no test is marked so, which is not a failure.
  ((code == 0 || code == 5))
}

other_python() {
  local version="$1" python="$2"
  PYTHON="$python" make_venv ".venv-$version" requirements-dev.txt &&
    smoke ".venv-$version/bin/python" "$version" &&
    ".venv-$version/bin/python" -m pytest -m "not slow" -n "${TEST_PROCESSES:-2}" --dist loadfile \
      tests/cpab tests/parity tests/training
}

# Packages that a user may add; without them their tests skip, and say so.
extra_packages() {
  .venv/bin/python -m pip install --quiet --disable-pip-version-check 'optuna>=4' 'wandb>=0.22' &&
    .venv/bin/python -m pytest tests/sweeps/test_searching.py tests/training/test_sinks.py
}

make_venv .venv requirements-dev.txt || exit
attempt "slow tests" slow_tests "$@"
attempt "PyTorch, timm, transformers" bash launch/test_interop.sh
attempt "optuna, Weights & Biases" extra_packages
own="$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')"
for version in 3.11 3.12 3.13; do
  if [[ "$version" == "$own" ]]; then
    attempt "training run, Python $own" smoke .venv/bin/python "$own"
  elif python="$(find_version "$version")"; then
    attempt "Python $version" other_python "$version" "$python"
  else
    absent+=("Python $version")
  fi
done

list() { (($#)) && printf '%s; ' "$@" || printf 'none'; }
echo "done: $(list ${done_here[@]+"${done_here[@]}"})"
echo "absent here, not tried: $(list ${absent[@]+"${absent[@]}"})"
echo "failed: $(list ${failed[@]+"${failed[@]}"})"
((${#failed[@]} == 0))
