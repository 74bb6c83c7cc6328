"""SIGKILL at any moment: the same command run again ends bit-equal to a run that was left alone."""

import os
import random
import subprocess
import sys
import time

import numpy as np
import pytest

from ditask_jax.training.writers import read_metrics, without_timings

COMMAND = [sys.executable, "-m", "ditask_jax.train", "--config=configs/smoke.py", "--config.checkpoint_every_steps=1"]
STEPS = 12


def _run(folder, cache, kill_after_rows=None):
    environment = dict(os.environ, JAX_PLATFORMS="cpu", JAX_NUM_CPU_DEVICES="1", JAX_COMPILATION_CACHE_DIR=str(cache))
    command = [*COMMAND, f"--config.total_steps={STEPS}", f"--workdir={folder}"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if kill_after_rows is not None:
        log = folder / "metrics.jsonl"
        while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") >= kill_after_rows):
            time.sleep(0.005)
        time.sleep(random.Random(kill_after_rows).random() * 0.05)
        process.kill()
    output, _ = process.communicate()
    return process.returncode, output


def _checkpoint(folder):
    from ditask_jax.training.manifest import read_manifest

    steps = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    return steps[-1], read_manifest(folder / "checkpoints" / str(steps[-1]))


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder, cache = tmp_path_factory.mktemp("straight"), tmp_path_factory.mktemp("cache")
    code, output = _run(folder, cache)
    assert code == 0, output
    return folder, cache


@pytest.mark.parametrize("rows", [[1, 7]], ids=str)
def test_killed_and_run_again(straight, tmp_path, rows):
    expected, cache = straight
    for kill_after in rows:
        code, output = _run(tmp_path, cache, kill_after)
        assert code == -9, output
    code, output = _run(tmp_path, cache)
    assert code == 0, output
    assert [without_timings(r) for r in read_metrics(tmp_path)] == [without_timings(r) for r in read_metrics(expected)]
    (step, ours), (last, theirs) = _checkpoint(tmp_path), _checkpoint(expected)
    assert step == last == STEPS
    # The manifest holds a hash of every leaf: parameters, optimiser moments and batch statistics.
    assert ours["leaves"] == theirs["leaves"]
    assert len(ours["leaves"]) > 100
    np.testing.assert_equal((tmp_path / "evaluation.json").read_text(), (expected / "evaluation.json").read_text())
