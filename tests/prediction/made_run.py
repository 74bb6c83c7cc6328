"""Run folders as training leaves them, without training: configuration, a checkpoint, metrics, scores."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.config import load_config
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.experiment import build_experiment, build_tasks
from ditask_jax.training.manifest import fingerprint
from ditask_jax.training.optim.optimizer import make_optimizer
from ditask_jax.training.optim.schedules import make_schedule
from ditask_jax.training.run_folder import RunDir

STEP = 30


def made_run(folder: Path, *overrides: str, seed: int = 0, checkpoint: bool = True) -> Path:
    """A run of configs/smoke.py whose trainable parameters are a little off their start."""
    config = load_config(Path(__file__).parents[2] / "configs/smoke.py", list(overrides))
    run = RunDir(folder)
    run.claim(config)
    rng = np.random.default_rng(seed)
    names = config.tasks.split("+")
    if checkpoint:
        parts = build_experiment(config).parts
        # In NumPy and as one program: of operations by themselves one is compiled for every shape.
        shaken = lambda value: jnp.asarray(np.asarray(value) + rng.normal(scale=0.05, size=value.shape), value.dtype)
        trainable = jax.tree.map(shaken, parts.trainable)
        optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, 3, STEP, 8), parts.declared)
        state = {"trainable": trainable, "opt_state": jax.jit(optimizer.init)(trainable), "stats": parts.stats}
        with Checkpointer(run.checkpoints) as checkpointer:
            checkpointer.save(STEP, state, {"backbone": fingerprint(parts.frozen), "weights": None})
    primary = {task.name: task.primary_metric for task in build_tasks(config)}
    scores = {name: {primary[name]: float(rng.uniform(0.2, 0.6))} for name in names}
    rows = [
        {"step": step, "train/loss": 9 / step, **{f"train/tasks/{name}/loss": 3 / step for name in names}}
        for step in range(1, STEP + 1)
    ]
    rows[-1] |= {f"val/tasks/{name}/{primary[name]}": value[primary[name]] for name, value in scores.items()}
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "step": STEP,
        "scores": scores,
        "delta_m": -5.0,
        "trainable_backbone": 18000 + config.method.get("task_cells", 64),
        "references": {},
    }
    run.evaluation.write_text(json.dumps(content | {"trainable_total": 20000, "examples": 6, "method": "ditask"}))
    return folder
