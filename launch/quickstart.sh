#!/usr/bin/env bash
# From a fresh checkout to a trained, evaluated multi-task model: DiTASK on the built-in scenes, from the embedded weights.
#
#   bash launch/quickstart.sh                             about eleven minutes on two cores, install included
#   bash launch/quickstart.sh --config.total_steps=50     further arguments go to the trainer
#
# Run again, it takes up an interrupted run, or repeats the evaluation of a finished one. WORKDIR names another folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

workdir="${WORKDIR:-runs/quickstart}"
make_venv .venv requirements.txt

# XLA takes its scratch memory anew for every step; huge pages that are kept save a fifth of the time on CPUs.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=100000000000}"
# Trains, evaluates, prints the table and says where the figure is.
.venv/bin/python -m ditask_jax.train --config=configs/scenes.py --workdir="$workdir" "$@"
echo "quickstart: $SECONDS s; run in $workdir"
