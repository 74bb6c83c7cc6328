#!/usr/bin/env bash
# One machine, one process, all its devices: first the preflight, then the training.
#
#   bash launch/local.sh --config=configs/pascal_swin_tiny.py --workdir=runs/pascal --config.data.root=prepared
#   CUDA_VISIBLE_DEVICES=0,1 bash launch/local.sh ...    two of its GPUs
#   LOCK=requirements-cuda13.txt bash launch/local.sh ...    makes .venv from that lock file first
#   PYTHON=python3 bash launch/local.sh ...    an environment of your own (default: .venv/bin/python)
#
# All arguments go to both. The exit code is that of the training: 0 done, 2 a mistake (one line says what), 75 told to
# stop and saved: the same command goes on.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if [[ -n "${LOCK:-}" ]]; then
  source launch/venv.sh
  make_venv .venv "$LOCK"
fi
python="${PYTHON:-.venv/bin/python}"
if ! command -v "$python" >/dev/null; then
  echo "local: no $python; make it with 'LOCK=requirements-cuda13.txt bash launch/local.sh ...', or set PYTHON" >&2
  exit 2
fi

# A variable of a cluster that this shell may have inherited would make the process wait for others.
unset JAX_NUM_PROCESSES JAX_PROCESS_ID JAX_COORDINATOR_ADDRESS SLURM_STEP_NUM_TASKS

"$python" -m ditask_jax.preflight "$@"
exec "$python" -m ditask_jax.train "$@"
