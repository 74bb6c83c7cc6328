"""A sweep as a SLURM array: one task per point, each told in time to save and put back into the queue."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ditask_jax.cli import PREEMPTED
from ditask_jax.errors import ConfigError
from ditask_jax.files import atomic_write_bytes, atomic_write_text
from ditask_jax.plugins import VARIABLE
from ditask_jax.sweeps.loading import Job

_SCRIPT = """\
#!/usr/bin/env bash
# Points of a sweep, one per task of a SLURM array: made by `ditask_jax.sweep --slurm`. Submit it again, or run the
# command that made it, to resume what is missing: finished points end at once, others at their last checkpoint.
#
#SBATCH --job-name={name}
#SBATCH --array={array}
#SBATCH --nodes=1
#SBATCH --ntasks=1
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={output}
# The batch script is warned three minutes before the time is up, and passes it on.
#SBATCH --signal=B:TERM@180
{options}
cd {folder} || exit 2
mapfile -t points < {names}
# sbatch hands on the environment of whoever submits; without this the trainings would take themselves for one.
unset SLURM_STEP_NUM_TASKS
{exports}{python} -m ditask_jax.sweep {arguments} --only="${{points[$SLURM_ARRAY_TASK_ID]}}" --jobs=1 &
sweep=$!
told=
trap 'told=1; kill -TERM "$sweep" 2>/dev/null' TERM
wait "$sweep"
code=$?
# A signal ends the first wait early: wait on until the training has saved.
while kill -0 "$sweep" 2>/dev/null; do
  wait "$sweep"
  code=$?
done
if ((code == {preempted})) || {{ [[ -n "$told" ]] && ((code != 0)); }}; then
  scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}" && exit 0
fi
exit "$code"
"""


def write_script(
    jobs: Sequence[Job], workdir: Path, arguments: Sequence[str], options: str = "", at_once: int | None = None
) -> Path:
    """Writes the batch script, and the names of its points beside it.

    Args:
        jobs: The points to train.
        workdir: Folder of the run folders; on a file system that all nodes see.
        arguments: Of `ditask_jax.sweep`: the file, `--workdir` and overrides.
        options: Further options of `sbatch`, for example `"--partition=gpu --gpus=1"`.
        at_once: Tasks that may run at the same time; None: as many as the cluster lets.

    Returns:
        The script.

    Raises:
        ConfigError: Options that are none of `sbatch`.
    """
    words = shlex.split(options)
    if wrong := [word for word in words if not word.startswith("-")]:
        raise ConfigError(f"command line: --slurm: {wrong[0]!r}: write options of sbatch as --NAME=VALUE")
    folder = (workdir / "slurm").absolute()
    names = atomic_write_text(folder / "points.txt", "".join(f"{job.name}\n" for job in jobs))
    throttle = f"%{at_once}" if at_once else ""
    text = _SCRIPT.format(
        name="".join(sign if sign.isalnum() or sign in "._-" else "_" for sign in workdir.absolute().name) or "sweep",
        array=f"0-{len(jobs) - 1}{throttle}",
        # sbatch takes quotes as a shell does.
        output=shlex.quote(str(folder / "%A_%a.out")),
        options="".join(f"#SBATCH {shlex.quote(word)}\n" for word in words),
        folder=shlex.quote(str(Path.cwd())),
        names=shlex.quote(str(names)),
        exports=f"export {VARIABLE}={shlex.quote(plugins)}\n" if (plugins := os.environ.get(VARIABLE)) else "",
        python=shlex.quote(sys.executable),
        arguments=shlex.join(arguments),
        preempted=PREEMPTED,
    )
    # A shell takes the names of files as bytes.
    return atomic_write_bytes(folder / "sweep.sbatch", text.encode("utf-8", "surrogateescape"))


def submit(script: Path, environment: Mapping[str, str] = os.environ) -> str | None:
    """Submits a batch script; returns what `sbatch` says, None where this machine has no `sbatch`.

    Raises:
        ConfigError: The cluster refuses it.
    """
    program = shutil.which("sbatch", path=environment.get("PATH"))
    if program is None:
        return None
    options = {"capture_output": True, "encoding": "utf-8", "errors": "replace", "check": False}
    done = subprocess.run([program, str(script)], env=dict(environment), **options)
    if done.returncode:
        reason = " ".join((done.stderr or done.stdout).split())
        raise ConfigError(
            f"sbatch: {reason or f'exit code {done.returncode}'}; give what it asks for, as --slurm='--partition=...', "
            f"or edit and submit {script}"
        )
    return done.stdout.strip()
