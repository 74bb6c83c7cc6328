"""Stand-ins for the programs of a cluster, and an interpreter that only notes what it is called with."""

import os
import stat
from pathlib import Path

# Starts the command FAKE_TASKS times, each with the variables of a task of its own node, and hands on the largest code.
SRUN = """#!/usr/bin/env bash
echo "srun $*" >> "$FAKE_LOG"
while [[ "$1" == --* ]]; do shift; done
export SLURM_STEP_NUM_TASKS="$FAKE_TASKS" SLURM_STEP_NODELIST=localhost
export SLURM_STEP_TASKS_PER_NODE="1(x$FAKE_TASKS)" SLURM_LOCALID=0 SLURM_STEP_ID=$(grep -c ^srun "$FAKE_LOG")
children=()
for ((task = 0; task < FAKE_TASKS; task++)); do
  SLURM_PROCID=$task SLURM_NODEID=$task "$@" &
  children+=($!)
done
echo "${children[*]}" > "$FAKE_LOG.tasks"
worst=0
for child in "${children[@]}"; do
  code=0
  wait "$child" || code=$?
  ((code > worst)) && worst=$code
done
exit "$worst"
"""

SCONTROL = """#!/usr/bin/env bash
echo "scontrol $*" >> "$FAKE_LOG"
exit "${FAKE_SCONTROL_CODE:-0}"
"""

# Called as `python -m MODULE ...`: notes the module and what it was given, and ends as FAKE_<LAST PART>_CODE says.
PYTHON = """#!/usr/bin/env bash
name="${2##*.}"
echo "$name ${*:3} cluster=${JAX_NUM_PROCESSES:-}${SLURM_STEP_NUM_TASKS:-}" >> "$FAKE_LOG"
code="FAKE_${name^^}_CODE"
[[ "${FAKE_CANCEL:-}" == "$name" ]] && kill -TERM "$(cat "$FAKE_LOG.script")"
exit "${!code:-0}"
"""


def stand_ins(folder: Path) -> dict[str, str]:
    """Writes the stand-ins into a folder; returns an environment that finds them."""
    folder.mkdir(exist_ok=True)
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL), ("python-stand-in", PYTHON)):
        path = folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "JAX_NUM_PROC"))}
    return plain | {
        "PATH": f"{folder}:{os.environ['PATH']}",
        "PYTHON": str(folder / "python-stand-in"),
        "FAKE_LOG": str(folder / "log"),
        "FAKE_TASKS": "1",
    }


def noted(folder: Path) -> list[str]:
    """What the stand-ins were called with, in order."""
    log = folder / "log"
    return log.read_text().splitlines() if log.exists() else []
