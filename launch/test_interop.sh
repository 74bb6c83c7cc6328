#!/usr/bin/env bash
# Our models, files and benchmarks against PyTorch, timm, transformers and peft, in an environment of their own (.venv-interop).
#
#   bash launch/test_interop.sh                    everything: about 1 GB of packages, minutes on two cores
#   bash launch/test_interop.sh -k swin            further arguments go to pytest
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source launch/venv.sh

make_venv .venv-interop requirements-dev.txt
# No lock: a universal one would pick a torch with gigabytes of CUDA packages. These versions were tried together.
.venv-interop/bin/python -m pip install --quiet 'torch==2.13.0' 'timm==1.0.31' 'transformers==5.23.0' 'peft==0.21.2'
.venv-interop/bin/python -m pytest tests/interop --durations=10 "$@"
