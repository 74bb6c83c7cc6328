"""Going on from any step is the run that was never stopped."""

import shutil

import jax
import numpy as np
import pytest

from ditask_jax.config import load_config
from ditask_jax.training.manifest import read_manifest
from ditask_jax.training.metrics_log import read_metrics, without_timings
from ditask_jax.training.trainer import Trainer
from tests.training.small import OPTIONS, two_stages

STEPS = 50


@pytest.mark.slow
def test_every_one_of_fifty_steps_is_as_good_a_start_as_any(tmp_path):
    """State, metrics log (losses, learning rates, evaluations) and so data order, schedule and random numbers."""
    options = (f"total_steps={STEPS}", "checkpoint_every_steps=1", f"checkpoint.keep={STEPS}", "eval_every_steps=25")
    config = load_config("configs/smoke.py", ("mesh.data=1", "data.eval_examples=2", *options, *OPTIONS))
    with two_stages():
        trainer = Trainer(config)
    trainer.draw = lambda path: path
    straight = tmp_path / "straight"
    trainer.fit(straight)
    expected = jax.tree.map(np.asarray, trainer.state)
    rows = [without_timings(row) for row in read_metrics(straight)]
    log = (straight / "metrics.jsonl").read_text().splitlines(keepends=True)
    leaves = read_manifest(straight / "checkpoints" / str(STEPS))["leaves"]
    assert len(rows) == STEPS
    different = []
    for step in range(1, STEPS):
        folder = tmp_path / "resumed"
        (folder / "checkpoints").mkdir(parents=True)
        shutil.copy(straight / "config.json", folder)
        shutil.copytree(straight / "checkpoints" / str(step), folder / "checkpoints" / str(step))
        # A row more than the checkpoint has, as a killed run leaves it.
        (folder / "metrics.jsonl").write_text("".join(log[: step + 1]))
        trainer.state, trainer.step, trainer._scored = trainer._initial_state(), 0, None
        trainer.fit(folder)
        same = jax.tree.map(np.array_equal, jax.tree.map(np.asarray, trainer.state), expected)
        whole = read_manifest(folder / "checkpoints" / str(STEPS))["leaves"] == leaves
        if not (jax.tree.all(same) and whole and [without_timings(row) for row in read_metrics(folder)] == rows):
            different.append(step)
        shutil.rmtree(folder)
    assert different == []
