#!/usr/bin/env bash
# What is slower or needs more than the default checks (launch/test.sh, which this does not repeat), in parts: the tests
# marked slow, the tests against PyTorch models, packages that a user may add, a training run and the numerical tests on
# every other supported Python that starts here. All with the compiler's defaults, as users have them.
#
#   bash launch/test_full.sh                   every part; run again, it goes on: what passed with these files is kept
#   bash launch/test_full.sh --list            the parts, and what became of each
#   bash launch/test_full.sh laws interop      these parts
#   FRESH=1 bash launch/test_full.sh           from the start
#   TEST_PROCESSES=1 bash launch/test_full.sh  tests in one process (default: 2)
#
# Each part is reported when it ends, in .cache/full/STATE/summary.txt too; its output is in PART.log beside it. STATE is
# the commit and a hash of the files. The exit code is 0 if every part that was asked for has passed or cannot run here.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

parts=(laws training processes pages others interop extras wheel python3.11 python3.12 python3.13)
describe() {
  case "$1" in
    laws) echo "slow laws of the methods" ;;
    training) echo "slow tests of training: resuming from 50 steps, 1 to 8 devices" ;;
    processes) echo "slow tests that kill, stop and requeue trainings" ;;
    pages) echo "the long samples of the pages, the notebooks" ;;
    others) echo "all other slow tests" ;;
    interop) echo "against PyTorch, timm, transformers and peft" ;;
    extras) echo "optuna, Weights & Biases and huggingface_hub; ONNX, in an environment of its own" ;;
    wheel) echo "the package as it is installed: built, put into an environment of its own, run in an empty folder" ;;
    python*) echo "a training run and, unless .venv has it, the numerical tests on ${1/python/Python }" ;;
    *) return 1 ;;
  esac
}

# The commit, and a hash of every file that git does not ignore.
state_of_files() {
  local commit hash
  commit="$(git rev-parse --short HEAD 2>/dev/null || echo no-git)"
  hash="$({ git ls-files -z --cached --others --exclude-standard 2>/dev/null ||
    find . -type f -not -path '*/.*' -print0; } | sort -zu | xargs -0 cksum 2>/dev/null | cksum | tr ' ' -)"
  echo "$commit-$hash"
}

# Prints an interpreter of a version such as 3.12. A name on the path may be a version manager's stub that refuses to
# start, so every candidate is started; pyenv, where there is one, knows of more.
find_version() {
  local version="$1" name
  for name in "python$version" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/"$version".*/bin/python; do
    if "$name" -c "import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != '$version')" >/dev/null 2>&1; then
      echo "$name"
      return
    fi
  done
  return 1
}

slow() {
  local code=0
  .venv/bin/python -m pytest -m slow "${spread[@]}" --durations=15 "$@" || code=$?
  # pytest's code 5: no test is marked so, which is not a failure.
  ((code == 0 || code == 5))
}

# smoke PYTHON NAME: trains, resumes, evaluates and describes a test-size model.
smoke() {
  local python="$1" workdir="$scratch/$2"
  "$python" -m ditask_jax.train --config=configs/smoke.py --workdir="$workdir" &&
    "$python" -m ditask_jax.train --config=configs/smoke.py --workdir="$workdir" &&
    "$python" -m ditask_jax.evaluate --workdir="$workdir" &&
    "$python" -m ditask_jax.describe --config=configs/pascal_swin_tiny.py --json >/dev/null
}

# A training run on a version of Python, and where .venv has another one the tests of numbers: the parts that C code of
# another build could change. What is plain Python is the same on all of them.
on_python() {
  local version="$1" python
  if [[ "$version" == "$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')" ]]; then
    smoke .venv/bin/python "$version"
  elif python="$(find_version "$version")"; then
    PYTHON="$python" make_venv ".venv-$version" requirements-dev.txt &&
      smoke ".venv-$version/bin/python" "$version" &&
      ".venv-$version/bin/python" -m pytest -m "not slow" "${spread[@]}" tests/cpab tests/parity
  else
    echo "no Python $version starts here"
    return "$absent"
  fi
}

# Packages that a user may add; without them their tests skip, and say so.
extras() {
  .venv/bin/python -m pip install --quiet --disable-pip-version-check 'optuna>=4' 'wandb>=0.22' \
    'huggingface_hub>=1' &&
    .venv/bin/python -m pytest tests/sweeps/test_searching.py tests/training/test_sinks.py tests/hub &&
    make_venv .venv-onnx requirements-dev.txt &&
    .venv-onnx/bin/python -m pip install --quiet --disable-pip-version-check 'jax2onnx==0.13.0' 'onnxruntime>=1.20' &&
    .venv-onnx/bin/python -m pytest -n 0 tests/conversion/test_onnx.py
}

# The wheel, in an environment and a folder where nothing of the checkout is.
wheel() {
  local bin="$PWD/.venv-wheel/bin"
  make_venv .venv-wheel requirements.txt &&
    "$bin/python" -m pip wheel --quiet --disable-pip-version-check --no-deps . -w "$scratch/dist" &&
    "$bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --force-reinstall "$scratch"/dist/*.whl &&
    mkdir -p "$scratch/empty" &&
    (cd "$scratch/empty" &&
      "$bin/ditask-jax" --help &&
      "$bin/ditask-jax" train --config=smoke --workdir=run &&
      "$bin/ditask-jax" evaluate --workdir=run &&
      "$bin/ditask-jax" describe --config=pascal_swin_tiny:frozen --json >/dev/null &&
      "$bin/ditask-jax" sweep smoke --workdir=sweep --list)
}

run_part() {
  case "$1" in
    laws) slow tests/adapters ;;
    training) slow tests/training ;;
    # One at a time: they start several processes each, and wait for them.
    processes) spread=(-n 0) && slow tests/crash tests/launch tests/sweeps ;;
    pages) slow tests/docs ;;
    others) slow "--ignore=tests/"{adapters,training,crash,launch,sweeps,docs} ;;
    interop) bash launch/test_interop.sh ;;
    extras) extras ;;
    wheel) wheel ;;
    python*) on_python "${1#python}" ;;
  esac
}

# attempt PART: runs it, unless it has passed with these files, and says at once what became of it.
attempt() {
  local part="$1" started=$SECONDS code outcome counts
  if grep -q "^passed" "$state/$part.outcome" 2>/dev/null; then
    report "$part" "(before)"
    return
  fi
  echo "== $part: $(describe "$part")"
  # In a shell of its own, so that no part changes another one's variables.
  (run_part "$part") 2>&1 | tee "$state/$part.log"
  code=${PIPESTATUS[0]}
  case "$code" in
    0) outcome=passed ;;
    "$absent") outcome=absent ;;
    *) outcome="failed, code $code" ;;
  esac
  # pytest's own last lines, without the rules around them.
  counts="$(sed -nE 's/^=* ?([0-9]+ (passed|failed|skipped|error|deselected).* in [0-9.]+s).*/\1/p' "$state/$part.log" |
    paste -sd ';' -)"
  echo "$outcome, $((SECONDS - started)) s${counts:+, $counts}" >"$state/$part.outcome"
  report "$part"
}

report() {
  echo "test_full: $1: $(cat "$state/$1.outcome" 2>/dev/null || echo "not run yet")${2:+ $2}"
}

# All parts so far, in their order.
summarise() {
  local part
  for part in "${parts[@]}"; do report "$part"; done >"$state/summary.txt"
}

chosen=() only_list=""
for word in "$@"; do
  if [[ "$word" == --list ]]; then
    only_list=1
  elif describe "$word" >/dev/null; then
    chosen+=("$word")
  else
    echo "test_full: '$word': unknown part; known: --list ${parts[*]}" >&2
    exit 2
  fi
done
((${#chosen[@]})) || chosen=("${parts[@]}")

absent=77 # the code of a part that cannot run here
spread=(-n "${TEST_PROCESSES:-2}" --dist loadfile --no-loadscope-reorder)
state=".cache/full/$(state_of_files)"
if [[ -n "$only_list" ]]; then
  for part in "${chosen[@]}"; do report "$part" "- $(describe "$part")"; done
  exit 0
fi

[[ -z "${FRESH:-}" ]] || rm -rf "$state"
mkdir -p "$state"
scratch="$(mktemp -d)"
trap 'rm -rf "$scratch"' EXIT
# Set, though empty: the tests' own flags are for quick checks.
export XLA_FLAGS="${XLA_FLAGS:-}"
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/$state/compiled}"

make_venv .venv requirements-dev.txt || exit
for part in "${chosen[@]}"; do
  attempt "$part"
  summarise
done
echo "== $state/summary.txt, $SECONDS s"
cat "$state/summary.txt"
for part in "${chosen[@]}"; do
  ! grep -q "^failed" "$state/$part.outcome" || exit 1
done
rm -rf "$state/compiled"
