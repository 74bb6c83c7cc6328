"""A whole training as a job of two nodes, stopped and requeued, against the same training in one process.

The nodes are two processes of four virtual devices on this machine, started by `launch/slurm.sbatch` and a stand-in for
`srun`; the other training is one process of eight.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.manifest import empty_arrays, read_manifest
from ditask_jax.training.metrics_log import read_metrics
from tests.launch.stand_ins import noted, stand_ins

ROOT = pathlib.Path(__file__).resolve().parents[2]
STEPS = 16
# Plain gradient descent: Adam would turn rounding in gradients next to zero into steps of full length.
CONFIG = (
    "--config=configs/smoke.py",
    "--config.tasks=semseg+edge",
    f"--config.total_steps={STEPS}",
    "--config.checkpoint_every_steps=100",
    "--config.optimizer.name=sgd",
    "--config.data.eval_examples=13",
    "--config.method.name=lora",
    "--config.method.rank=2",
)


def job(folder, workdir, cache, stop_task=None):
    """Submits the training as a job of two nodes; SIGTERM to one of its tasks once two steps are done."""
    variables = {
        "PYTHON": sys.executable,
        "FAKE_TASKS": "2",
        "SLURM_JOB_ID": "7",
        "SLURM_SUBMIT_DIR": str(ROOT),
        "JAX_NUM_CPU_DEVICES": "4",
        "JAX_COMPILATION_CACHE_DIR": str(cache),
    }
    command = ["bash", str(ROOT / "launch" / "slurm.sbatch"), *CONFIG, f"--workdir={workdir}"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, env=stand_ins(folder) | variables, cwd=ROOT, **pipes)
    if stop_task is not None:
        log = workdir / "metrics.jsonl"
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n")):
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(int((folder / "log.tasks").read_text().split()[stop_task]), signal.SIGTERM)
    output, _ = process.communicate(timeout=1200)
    return process.returncode, output


def last_state(workdir):
    """Step and arrays by name of the newest checkpoint."""
    with Checkpointer(workdir / "checkpoints", read_only=True) as checkpointer:
        step = checkpointer.latest()
        like = empty_arrays(read_manifest(workdir / "checkpoints" / str(step)))
        state, _ = checkpointer.restore(step, like)
    return step, {name: np.asarray(value) for name, value in state.items()}


@pytest.mark.slow
def test_two_nodes_stopped_and_requeued_train_like_one_process(tmp_path):
    cache, two, one = tmp_path / "cache", tmp_path / "two", tmp_path / "one"
    code, output = job(tmp_path / "first", two, cache, stop_task=1)
    assert code == 0, output
    assert "process 0: preflight: all passed" in output
    assert noted(tmp_path / "first")[-1] == "scontrol requeue 7"
    stopped = max(row["step"] for row in read_metrics(two))
    assert 0 < stopped < STEPS
    assert output.count(f"stopped at step {stopped} and saved") == 1

    code, output = job(tmp_path / "second", two, cache)
    assert code == 0, output
    assert f"resuming from step {stopped} of {STEPS}" in output
    # Only the first process speaks.
    assert output.count(f"step {STEPS}/{STEPS}") == 1
    assert output.count("delta_m over 13 examples") == 1

    command = [sys.executable, "-m", "ditask_jax.train", *CONFIG, f"--workdir={one}"]
    environment = dict(os.environ, JAX_NUM_CPU_DEVICES="8", JAX_COMPILATION_CACHE_DIR=str(cache))
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    ours, theirs = read_metrics(two), read_metrics(one)
    assert [row["step"] for row in ours] == [row["step"] for row in theirs] == list(range(1, STEPS + 1))
    for here, there in zip(ours, theirs, strict=True):
        names = [name for name in there if name.startswith("train/")]
        np.testing.assert_allclose([here[n] for n in names], [there[n] for n in names], rtol=1e-5)
    (step, state), (last, expected) = last_state(two), last_state(one)
    assert step == last == STEPS
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        # The gradient of a bias before a BatchNorm is nothing but rounding: its momentum counts against 0.1.
        scale = max(np.abs(value).max(initial=0), 0.1)
        np.testing.assert_allclose(state[name], value, atol=1e-5 * scale, err_msg=name)
    scores, wanted = (json.loads((folder / "evaluation.json").read_text()) for folder in (two, one))
    assert scores["examples"] == wanted["examples"] == 13
    for task, found in wanted["scores"].items():
        for metric, value in found.items():
            np.testing.assert_allclose(scores["scores"][task][metric], value, atol=1e-3, err_msg=f"{task} {metric}")
    written = {path.relative_to(two) for path in two.rglob("*") if path.is_file() and "checkpoints" not in path.parts}
    assert written == {
        path.relative_to(one) for path in one.rglob("*") if path.is_file() and "checkpoints" not in path.parts
    }
