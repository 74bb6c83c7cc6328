"""The command with real trainings: stopped, run again, finished, compared."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from ditask_jax import cli

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = "configs/sweeps/smoke.py"
# A training that compiles is told to stop, and does so when it has: minutes where others use the cores too.
PATIENCE = 1800


@pytest.mark.slow
def test_a_sweep_that_was_stopped_is_finished_by_the_same_command(tmp_path):
    workdir = tmp_path / "sweep"
    command = [sys.executable, "-m", "ditask_jax.sweep", FILE, f"--workdir={workdir}", "--jobs=2"]
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    environment["DITASK_CACHE_DIR"] = str(tmp_path / "cache")
    first = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + PATIENCE
    # `fit` claims the folder when everything is built: from then on it is told to stop, not killed.
    while len(list(workdir.glob("*/config.json"))) < 2:
        assert first.poll() is None, "it ended before a training had started"
        assert time.monotonic() < end, "no training has started"
        time.sleep(0.1)
    first.send_signal(signal.SIGTERM)
    printed, _ = first.communicate(timeout=PATIENCE)
    assert first.returncode == cli.PREEMPTED
    assert "run the same command to resume what is missing" in printed

    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == cli.OK, done.stdout + done.stderr
    runs = sorted(path.parent for path in workdir.glob("*/evaluation.json"))
    assert len(runs) == 4
    for run in runs:
        assert json.loads((run / "evaluation.json").read_text())["step"] == 6
        steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
        assert steps == list(range(1, 7))
    assert any((tmp_path / "cache" / "compiled").rglob("jit_step-*"))  # one for all points
    assert (workdir / "results" / "axes.png").is_file()
    assert "| ditask learning_rate=0.05 | 2 |" in done.stdout

    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == cli.OK
    assert again.stdout.startswith("4 points: 4 finished; ")
